"""The tokenizer in a GGUF file, as the tokenizer.json that says the same.

The file has the tokens. One for byte-level BPE ("gpt2") also has the merges, and the name of the way in which text is
cut before merging. One for SentencePiece's BPE ("llama") has a score for each token. Keys: github.com/ggml-org/ggml,
its page on gguf.
"""

from typing import Any

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from lacy_jax.checkpoints.gguf_file import GgufFile
from lacy_jax.data.hf_tokenizer import HfTokenizer
from lacy_jax.data.merges import merges_by_score
from lacy_jax.errors import CheckpointError, DataError

# How text is cut before merging; sources: the tokenizer.json of the models that llama.cpp names so.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "llama-bpe": rf"{_WORDS}|\p{{N}}{{1,3}}{_REST}",
    "qwen2": rf"{_WORDS}|\p{{N}}{_REST}",
}
_PLAIN = ("gpt-2", "default")
DIGITS = ("smollm",)
_WHOLE_WORDS = ("llama-bpe",)  # a word that is in the vocabulary becomes one token, whatever the merges
_SPACE = "\u2581"


def read_tokenizer(file: GgufFile) -> HfTokenizer:
    """The file's tokenizer.

    Raises:
        CheckpointError: it has none, or one of a kind that is not supported.
    """
    kind = file.value("tokenizer.ggml.model", "")
    build = {"gpt2": _byte_level, "llama": _sentencepiece_like}.get(kind)
    if build is None:
        raise CheckpointError(f"{file.where}: tokenizer {kind!r} is not supported; supported are gpt2, llama")
    tokens = _strings(file, "tokenizer.ggml.tokens")
    if len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{file.where}: tokenizer.ggml.tokens has a token twice")
    end_id = file.value("tokenizer.ggml.eos_token_id")
    if end_id is None:
        raise CheckpointError(f"{file.where}: tokenizer.ggml.eos_token_id is missing: no token ends a text")
    try:
        tokenizer = build(file, tokens)
        kinds = file.value("tokenizer.ggml.token_type") or [gguf.TokenType.NORMAL] * len(tokens)
        for token, each in zip(tokens, kinds, strict=True):
            if each in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED):
                special = each == gguf.TokenType.CONTROL
                tokenizer.add_tokens([AddedToken(token, special=special, normalized=False)])
        others = [file.value(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom")]
        ends = [each for each in others if each is not None]
        return HfTokenizer(tokenizer.to_str(), start_id=_start_id(file), end_id=end_id, more_ends=ends)
    except DataError as error:
        raise CheckpointError(f"{file.where}: {error}") from None
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{file.where}: its tokenizer cannot be built ({error})") from None


def _start_id(file: GgufFile) -> int | None:
    """The token that the file wants before a text; None if it wants none. Where it does not say, as llama.cpp does."""
    kinds = [file.value(f"tokenizer.ggml.{name}") for name in ("model", "pre")]
    added = file.value("tokenizer.ggml.add_bos_token", kinds[0] == "llama" or kinds[1] in _WHOLE_WORDS)
    return file.value("tokenizer.ggml.bos_token_id") if added else None


def _strings(file: GgufFile, key: str) -> list[str]:
    found = file.value(key)
    if not isinstance(found, list):
        raise CheckpointError(f"{file.where}: {key} is missing")
    return found


def _byte_level(file: GgufFile, tokens: list[str]) -> Tokenizer:
    """GPT-2's way and those after it."""
    cut = file.value("tokenizer.ggml.pre", "default")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut not in SPLITS)
    if cut in SPLITS:
        first: Any = pre_tokenizers.Split(Regex(SPLITS[cut]), behavior="isolated")
    elif cut in DIGITS:
        first = pre_tokenizers.Digits(individual_digits=True)
    elif cut in _PLAIN:
        first = None
    else:
        known = ", ".join((*SPLITS, *DIGITS, *_PLAIN))
        raise CheckpointError(f"{file.where}: tokenizer.ggml.pre {cut!r} is not supported; supported are {known}")
    parted = [each.partition(" ") for each in _strings(file, "tokenizer.ggml.merges")]
    merges = [(left, right) for left, _, right in parted]
    tokenizer = Tokenizer(
        models.BPE({token: index for index, token in enumerate(tokens)}, merges, ignore_merges=cut in _WHOLE_WORDS)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, plain]) if first else plain
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece_like(file: GgufFile, tokens: list[str]) -> Tokenizer:
    """SentencePiece's BPE: the two neighbours whose whole has the highest score are merged first."""
    ids = {token: index for index, token in enumerate(tokens)}
    scores = file.value("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise CheckpointError(f"{file.where}: tokenizer.ggml.scores is missing, or not one for each token")
    unknown = file.value("tokenizer.ggml.unknown_token_id", 0)
    tokenizer = Tokenizer(
        models.BPE(ids, merges_by_score(tokens, scores), unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True)
    )
    spaces = normalizers.Replace(" ", _SPACE)
    before = [normalizers.Prepend(_SPACE)] if file.value("tokenizer.ggml.add_space_prefix", True) else []
    tokenizer.normalizer = normalizers.Sequence([*before, spaces])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", len(before), 0)]
    )
    return tokenizer
