"""The tokenizer of a GGUF file: the reverse of checkpoints/gguf_tokenizer.py."""

from collections.abc import Mapping
from typing import Any

import gguf

from lacy_jax.checkpoints.exports.layout import CALL, Outgoing
from lacy_jax.checkpoints.exports.tokenizer_json import sentencepiece_settings
from lacy_jax.checkpoints.gguf_tokenizer import DIGITS, SPLITS
from lacy_jax.data.files import parse_json
from lacy_jax.data.tokenizer import Tokenizer
from lacy_jax.errors import CheckpointError

_SPACE = "\u2581"
_KIND = gguf.TokenType
# SentencePiece numbers the kinds of its pieces as llama.cpp those of its tokens.
_USES = {"bos_token": "bos_token_id", "pad_token": "padding_token_id", "unk_token": "unknown_token_id"}
_REFUSED = "its tokenizer cannot be written as GGUF"


def tokenizer_keys(model: Outgoing) -> dict[str, Any]:
    """The keys tokenizer.* of the file.

    Raises:
        CheckpointError: llama.cpp has no such tokenizer.
    """
    tokenizer = model.tokenizer
    if isinstance(tokenizer, Tokenizer):
        own = _sentencepiece(tokenizer.definition)
    else:
        own = _carried(parse_json(parse_json(tokenizer.definition)["tokenizer_json"]), model)
    if model.has_call:
        own["tokens"].append(CALL)
        own["token_type"].append(int(_KIND.CONTROL))
        if "scores" in own:
            own["scores"].append(0.0)
    own["add_bos_token"] = model.opening is not None
    named = {use: tokenizer.control_tokens()[name] for use, name in model.named().items()}
    own |= {key: named[use] for use, key in _USES.items() if use in named}
    # Those after the first three are known to llama.cpp by their names alone, as they are to us.
    ends = dict.fromkeys([named["eos_token"], *tokenizer.end_ids])
    own |= dict(zip(("eos_token_id", "eot_token_id", "eom_token_id"), ends, strict=False))
    chat = model.loaded.chat
    found = {f"tokenizer.ggml.{key}": value for key, value in own.items()}
    return found | ({"tokenizer.chat_template": chat.source} if chat else {})


def _sentencepiece(definition: bytes) -> dict[str, Any]:
    parsed = sentencepiece_settings(definition)
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [piece.piece for piece in parsed.pieces],
        "scores": [piece.score for piece in parsed.pieces],
        "token_type": [int(piece.type) for piece in parsed.pieces],
        "add_space_prefix": parsed.normalizer_spec.add_dummy_prefix,
        "remove_extra_whitespaces": False,
        "unknown_token_id": parsed.trainer_spec.unk_id,
    }


def _carried(definition: Mapping[str, Any], model: Outgoing) -> dict[str, Any]:
    """A tokenizer.json's: byte-level, or SentencePiece-like."""
    inner = definition["model"]
    if inner.get("type") != "BPE":
        raise CheckpointError(f"{_REFUSED}: its model is {inner.get('type')!r}, and must be BPE")
    merges = [each.split(" ", 1) if isinstance(each, str) else each for each in inner["merges"]]
    named = {index: token for token, index in inner["vocab"].items()}
    added = {each["id"]: each for each in definition.get("added_tokens", [])}
    named |= {index: each["content"] for index, each in added.items()}
    ids = range(model.tokenizer.call_id)
    own: dict[str, Any] = {
        "tokens": [named.get(index, f"[UNUSED{index}]") for index in ids],
        "token_type": [
            _kind(index, named, added=added, model=model, in_bytes=bool(inner.get("byte_fallback"))) for index in ids
        ],
    }
    if not inner.get("byte_fallback"):
        return {"model": "gpt2", "pre": cut_of(definition), **own, "merges": [" ".join(pair) for pair in merges]}
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), rank)
    unknown = inner["vocab"].get(inner.get("unk_token"), 0)
    return {
        "model": "llama",
        "pre": "default",
        **own,
        "tokens": [token.replace(" ", _SPACE) for token in own["tokens"]],
        "scores": [-float(ranks.get(token, len(merges))) for token in own["tokens"]],
        "add_space_prefix": model.tokenizer.decode_bytes(model.tokenizer.encode("a").ids) == b" a",
        "remove_extra_whitespaces": False,
        "unknown_token_id": unknown,
    }


def _kind(index: int, named: Mapping[int, str], *, added: Mapping[int, Any], model: Outgoing, in_bytes: bool) -> int:
    """The kind of a token, for llama.cpp."""
    if index not in named:
        return int(_KIND.UNUSED)
    if not model.tokenizer.byte_lengths[index]:
        return int(_KIND.CONTROL)
    if in_bytes and len(named[index]) == 6 and named[index].startswith("<0x"):
        return int(_KIND.BYTE)
    return int(_KIND.USER_DEFINED if index in added else _KIND.NORMAL)


def cut_of(definition: Mapping[str, Any]) -> str:
    """llama.cpp's name of the way in which a byte-level tokenizer.json cuts text before merging.

    Raises:
        CheckpointError: it has none that is known here.
    """
    rule = definition.get("pre_tokenizer") or {}
    parts = rule.get("pretokenizers", [rule])
    *first, last = parts
    others = (definition.get("normalizer") or {}).get("type") not in (None, "NFC")
    if not others and last.get("type") == "ByteLevel" and not last.get("add_prefix_space") and len(first) <= 1:
        cut = first[0] if first else {}
        if not first and last.get("use_regex", True):
            return "gpt-2"
        if cut.get("type") == "Digits" and cut.get("individual_digits") and last.get("use_regex", True):
            return DIGITS[0]
        if cut.get("type") == "Split" and not last.get("use_regex", True):
            pattern = cut.get("pattern", {}).get("Regex")
            for name, known in SPLITS.items():
                if pattern == known and cut.get("behavior") == "Isolated" and not cut.get("invert"):
                    return name
    raise CheckpointError(f"{_REFUSED}: it cuts text before merging in a way that llama.cpp has no name for here")
