"""The tokenizer.json of a model: made of its SentencePiece model, or the one that it brought; with `<CALL>`.

SentencePiece's byte-pair models and those of tokenizer.json merge the same pairs in the same order. A space is U+2581
in SentencePiece's pieces. In ours that character, met in a text, is spelt in bytes; so here the pieces have plain
spaces, no text is changed before merging, and U+2581 is no piece. What was made is compared with the original on texts
that the vocabulary gives before anybody gets it.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from lacy_jax.checkpoints.exports.layout import CALL, Outgoing
from lacy_jax.data.files import parse_json
from lacy_jax.data.hf_tokenizer import HfTokenizer
from lacy_jax.data.merges import merges_by_score
from lacy_jax.data.tokenizer import TextTokenizer, Tokenizer
from lacy_jax.errors import CheckpointError, DataError

_SPACE = "\u2581"
_COMPARED = 1_000  # texts
# Beside what the vocabulary gives.
_ODD = ("", " ", "  two  spaces ", "a\n\n\t b\r\n", "naïve 東京 😀 ﬁ Å", "1,234.5", "a\x00b", "</s><s><0x41>", CALL)


def tokenizer_json(model: Outgoing) -> str:
    """The content of tokenizer.json.

    Raises:
        CheckpointError: its tokenizer cannot be written so.
    """
    if isinstance(model.tokenizer, Tokenizer):
        definition = _of_sentencepiece(model.tokenizer.definition)
    else:
        definition = parse_json(parse_json(model.tokenizer.definition)["tokenizer_json"])
    if model.has_call:
        _add_call(definition, call_id=model.tokenizer.call_id)
    written = json.dumps(_opened(definition, model), ensure_ascii=False)
    try:
        again = HfTokenizer(written, start_id=None, end_id=model.tokenizer.end_id)
    except DataError as error:
        raise CheckpointError(f"its tokenizer cannot be written as tokenizer.json: {error}") from None
    check_ids(model, again, what="tokenizer.json")
    return written


def check_ids(
    model: Outgoing, theirs: TextTokenizer, *, what: str, may_differ: Callable[[str], bool] = lambda _text: False
) -> None:
    """Compares the model's tokenizer with what was written of it: the control tokens, and the tokens of texts.

    The texts are of random tokens, so that they have every script of the vocabulary, and some odd ones.

    may_differ: of which texts the form cannot keep the tokens.

    Raises:
        CheckpointError: a control token or a text has other ids.
    """
    ours, named = model.tokenizer, theirs.control_tokens()
    for name, index in {**ours.control_tokens(), **({CALL: ours.call_id} if model.has_call else {})}.items():
        if named.get(name) != index:
            raise CheckpointError(f"its tokenizer cannot be written as {what}: {name} would have another id")
    rng = np.random.default_rng(0)
    drawn = (rng.integers(0, ours.call_id, rng.integers(1, 24)).tolist() for _ in range(_COMPARED))
    texts = [ours.decode_bytes(ids).decode(errors="ignore") for ids in drawn]
    for text in (*_ODD, _SPACE, *texts):
        if not may_differ(text) and ours.encode(text).ids.tolist() != theirs.encode(text).ids.tolist():
            raise CheckpointError(f"its tokenizer cannot be written as {what}: {text!r} would have other tokens")


def sentencepiece_settings(definition: bytes) -> Any:
    """The parsed SentencePiece model, if it is one whose merges can be written down.

    Raises:
        CheckpointError: it is not.
    """
    parsed = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    parsed.ParseFromString(definition)
    trainer, normalizer = parsed.trainer_spec, parsed.normalizer_spec
    wrong = [
        said
        for said, is_so in {
            "its model_type is not bpe": trainer.model_type != trainer.BPE,
            "it has no byte_fallback": not trainer.byte_fallback,
            "it normalizes text": bool(normalizer.precompiled_charsmap),
            "it removes spaces": normalizer.remove_extra_whitespaces,
            "it writes spaces after words": trainer.treat_whitespace_as_suffix,
        }.items()
        if is_so
    ]
    if wrong:
        raise CheckpointError(f"its SentencePiece model cannot be written for others: {', '.join(wrong)}")
    return parsed


def _of_sentencepiece(definition: bytes) -> dict[str, Any]:
    parsed = sentencepiece_settings(definition)
    processor = sentencepiece.SentencePieceProcessor(model_proto=definition)
    prefixed = parsed.normalizer_spec.add_dummy_prefix
    space = _SPACE if prefixed else " "
    pieces = [piece.piece.replace(_SPACE, space) for piece in parsed.pieces]
    kinds = [piece.type for piece in parsed.pieces]
    kind = parsed.SentencePiece
    added = [index for index, each in enumerate(kinds) if each in (kind.CONTROL, kind.UNKNOWN, kind.USER_DEFINED)]
    merged = [index for index, each in enumerate(kinds) if each in (kind.NORMAL, kind.UNUSED)]
    replace = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    parts = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]
    normalizer = None
    if prefixed:
        parts.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _SPACE}, spaces]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(pieces[i], i, special=kinds[i] != kind.USER_DEFINED) for i in added],
        "normalizer": normalizer,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": parts},
        "model": {
            "type": "BPE",
            "unk_token": processor.id_to_piece(processor.unk_id()),
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: index for index, piece in enumerate(pieces)},
            "merges": merges_by_score([pieces[i] for i in merged], [parsed.pieces[i].score for i in merged]),
        },
    }


def _added(content: str, index: int, *, special: bool) -> dict[str, Any]:
    no = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **no, "special": special}


def _add_call(definition: dict[str, Any], *, call_id: int) -> None:
    """Adds `<CALL>` as a special token, with the id after all others: the library numbers added tokens by itself."""
    added = definition.setdefault("added_tokens", [])
    if CALL in definition["model"]["vocab"] or any(token["content"] == CALL for token in added):
        raise CheckpointError(f"its tokenizer has a token {CALL} of its own")
    added.append(_added(CALL, call_id, special=True))


def _opened(definition: dict[str, Any], model: Outgoing) -> dict[str, Any]:
    """The definition, with a rule that puts what stands before a text there."""
    probe = HfTokenizer(json.dumps(definition), start_id=None, end_id=model.tokenizer.end_id)
    if model.opening == probe.added_start():
        return definition
    if model.opening is None:
        return {**definition, "post_processor": None}
    name = model.name_of(model.opening)
    first, second = ([{"Sequence": {"id": each, "type_id": nth}}] for nth, each in enumerate("AB"))
    opening = [{"SpecialToken": {"id": name, "type_id": 0}}]
    rule = {
        "type": "TemplateProcessing",
        "single": [*opening, *first],
        "pair": [*opening, *first, *opening, *second],
        "special_tokens": {name: {"id": name, "ids": [model.opening], "tokens": [name]}},
    }
    return {**definition, "post_processor": rule}
