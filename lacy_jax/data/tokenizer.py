"""SentencePiece with `<CALL>` on top, and the characters that every token stands for.

A tokenizer trained here splits any text without loss: text is taken as it is (no normalization), characters outside
the vocabulary are spelt in bytes, and decoding is the concatenation of each token's bytes.
"""

import copy
import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import sentencepiece

from lacy_jax.config import SMALLEST_VOCABULARY
from lacy_jax.errors import ConfigError, DataError, did_you_mean

_SPACE = "\u2581"  # SentencePiece writes a space so; the character itself, met in a text, is spelt in bytes


@dataclass(frozen=True, eq=False)
class Encoding:
    """N tokens of one text.

    ids: int32[N].
    starts, ends: int32[N], the characters text[start:end] that a token stands for, both non-decreasing. The bytes of
    one character each carry that character; a token that stands for nothing (an added space) is empty.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer(Protocol):
    """What decoding needs of a tokenizer: our own `Tokenizer`, or a Hugging Face one.

    start_id: what stands before a text's first token; None: nothing. end_id: what ends a document, and end_ids: all
    that end one. None of them is text.
    call_id: the id of `<CALL>`, or where that would be: the number of real tokens. vocab_size: call_id + 1.
    byte_lengths: int32[vocab_size], UTF-8 bytes each token stands for; 0 for control tokens.
    definition: what tokenizer_of (read_tokenizer.py) makes the same tokenizer of again.
    fingerprint: a sha256 that names it, in hex.
    """

    start_id: int | None
    end_id: int
    end_ids: tuple[int, ...]
    call_id: int
    vocab_size: int
    byte_lengths: np.ndarray
    fingerprint: str

    @property
    def definition(self) -> bytes: ...

    def encode(self, text: str) -> Encoding:
        """The tokens of `text`, without any control token; raises `DataError` at a lone surrogate."""
        ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes of `ids`, which may begin or end inside a character."""
        ...

    def control_tokens(self) -> dict[str, int]:
        """The tokens that are no text, by name."""
        ...


_AnyTokenizer = TypeVar("_AnyTokenizer", bound=TextTokenizer)


def starting_with(tokenizer: _AnyTokenizer, token: str) -> _AnyTokenizer:
    """The tokenizer with another token before a text: "auto" leaves its own, "none" is nothing, else a control token.

    Raises:
        ConfigError: there is no such control token.
    """
    if token == "auto":
        return tokenizer
    names = tokenizer.control_tokens()
    if token != "none" and token not in names:
        raise ConfigError(
            f"start_token={token}: allowed are auto, none and the tokenizer's control tokens, which have no {token!r}"
            f"{did_you_mean(token, names)}"
        )
    changed = copy.copy(tokenizer)
    changed.start_id = names.get(token)
    return changed


class Tokenizer:
    """A SentencePiece model, any that has `</s>`, and `<CALL>` as the id after its last piece.

    pieces: number of SentencePiece pieces. vocab_size: pieces + 1.
    call_id: the id of `<CALL>`, = pieces: no text encodes to it, and it decodes to "".
    end_id: the id of `</s>`, which follows every document: no text encodes to it, and it decodes to "".
    start_id: the same id: a document follows the end of another one. end_ids: the same id alone.
    byte_lengths: int32[vocab_size], UTF-8 bytes each token stands for; 0 for `<CALL>` and control tokens.
    definition: the serialized SentencePiece model; fingerprint: its sha256, in hex.
    """

    def __init__(self, model_proto: bytes) -> None:
        """Raises `DataError` where the bytes are no SentencePiece model, or it has no end-of-text token."""
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model_proto)
        except (RuntimeError, OSError) as error:
            raise DataError(f"tokenizer: not a SentencePiece model ({error})") from None
        if processor.eos_id() < 0:
            raise DataError("tokenizer: the SentencePiece model has no end-of-text token </s>; documents need one")
        self._processor = processor
        self.definition = model_proto
        self.fingerprint = hashlib.sha256(model_proto).hexdigest()
        self.pieces: int = processor.get_piece_size()
        self.call_id = self.pieces
        self.end_id: int = processor.eos_id()
        self.start_id: int | None = self.end_id
        self.end_ids: tuple[int, ...] = (self.end_id,)
        self.vocab_size = self.pieces + 1
        try:
            self._bytes = [_piece_bytes(processor, index) for index in range(self.pieces)] + [b""]
        except UnicodeDecodeError as error:
            raise DataError(f"tokenizer: not a SentencePiece model (a piece is not UTF-8: {error})") from None
        self.byte_lengths = np.array([len(each) for each in self._bytes], dtype=np.int32)
        self._adds_space = "".join(processor.encode("a", return_type=str)).startswith(_SPACE)
        self._spelt = self._spelt_apart()
        self._apart = re.compile(f"([{''.join(self._spelt)}])") if self._spelt else None

    def _spelt_apart(self) -> dict[str, list[int]]:
        """What SentencePiece would confuse, with the ids of its bytes.

        That is the character that it writes spaces with. If no training text had spaces, it has no piece for them, so
        spaces are here, too.
        """
        both = {
            each: [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in each.encode()] for each in (_SPACE, " ")
        }
        if self._adds_space or not all(self._processor.is_byte(index) for ids in both.values() for index in ids):
            return {}
        has_spaces = self._processor.piece_to_id(_SPACE) != self._processor.unk_id()
        return {_SPACE: both[_SPACE]} if has_spaces else both

    @classmethod
    def from_bytes(cls, model_proto: bytes) -> "Tokenizer":
        """The tokenizer of a serialized SentencePiece model."""
        return cls(model_proto)

    def encode(self, text: str) -> Encoding:
        """The tokens of `text`, without any control token; raises `DataError` at a lone surrogate."""
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        position = 0
        for nth, part in enumerate(self._apart.split(text) if self._apart else [text]):
            if nth % 2:
                ids += self._spelt[part]
                spans += [(position, position + 1)] * len(self._spelt[part])
                position += 1
                continue
            mapping = self._encode_part(part)
            ids += mapping["ids"]
            spans += [(a + position, b + position) for a, b in mapping["offsets"]] if position else mapping["offsets"]
            position += len(part)
        offsets = np.array(spans, dtype=np.int32).reshape(-1, 2)
        return Encoding(ids=np.array(ids, dtype=np.int32), starts=offsets[:, 0], ends=offsets[:, 1])

    def _encode_part(self, text: str) -> dict[str, list]:
        try:
            mapping: dict[str, list] = self._processor.encode(text, return_type="offset_mapping")
        except RuntimeError:
            raise DataError(f"tokenizer: not valid Unicode (a lone surrogate?): {text[:80]!a}") from None
        mapping["offsets"] = _spread(mapping["offsets"], mapping["pieces"])
        return mapping

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD, an added leading space is dropped again."""
        text = self.decode_bytes(ids).decode(errors="replace")
        return text.removeprefix(" ") if self._adds_space else text

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes of `ids`, which may begin or end inside a character."""
        return b"".join([self._bytes[index] for index in ids])

    def control_tokens(self) -> dict[str, int]:
        """The tokens that are no text, by name, without `<CALL>`."""
        return {self._processor.id_to_piece(index): index for index in range(self.pieces) if not self._bytes[index]}


def _piece_bytes(processor: sentencepiece.SentencePieceProcessor, index: int) -> bytes:
    if processor.is_byte(index):
        return bytes([int(processor.id_to_piece(index)[1:-1], 16)])
    if processor.is_control(index) or processor.is_unknown(index):
        return b""
    return processor.id_to_piece(index).replace(_SPACE, " ").encode()


def _spread(offsets: list[tuple[int, int]], pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Gives all tokens that spell one character its span; SentencePiece gives it to the last of them alone."""
    if all(start != end for start, end in offsets):
        return offsets
    spread = list(offsets)
    for index in range(len(spread) - 2, -1, -1):
        start, end = spread[index]
        if start == end and pieces[index] != _SPACE:
            spread[index] = (start, max(end, spread[index + 1][1]))
    return spread


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, characters: int = 200_000_000) -> bytes:
    """Trains a byte-pair SentencePiece model, the same for the same texts, and returns it serialized.

    Text is not normalized, digits stand alone, spaces are kept and none is added; no piece crosses a line. Characters
    outside the vocabulary are spelt in bytes. Source: github.com/google/sentencepiece, doc/options.md.

    Args:
        texts: read until `characters` characters are there.
        vocab_size: number of pieces, the 256 bytes and `<unk>`, `<s>`, `</s>` included.

    Raises:
        DataError: too little text for so many pieces.
    """
    model = io.BytesIO()
    lines = _lines(texts, characters=characters)
    first = next(lines, None)
    if first is None:
        raise DataError("tokenizer: no text to train it on")
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            normalization_rule_name="identity",
            byte_fallback=True,
            split_digits=True,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            max_sentence_length=2**30,  # the default drops lines above 4,192 bytes
            num_threads=16,  # written into the model: the same number everywhere, or fingerprints differ
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(f"config.tokenizer.vocab_size={vocab_size}: {_explain(str(error))}") from None
    return model.getvalue()


def _explain(error: str) -> str:
    """A message of SentencePiece's trainer. If it says how many pieces there can be, ours names the flag to add."""
    said = error.rpartition("] ")[2]
    most = re.search(r"value <= (\d+)", said)
    if most is None:
        return said
    pieces = int(most[1]) // 100 * 100
    if pieces < SMALLEST_VOCABULARY:
        return f"the text is too short for a tokenizer ({most[1]} pieces at most); give more of it"
    return f"the text has enough for {most[1]} pieces at most; add --config.tokenizer.vocab_size={pieces}"


def _lines(texts: Iterable[str], *, characters: int) -> Iterator[str]:
    left = characters
    for text in texts:
        yield from filter(None, text[:left].split("\n"))
        left -= len(text)
        if left <= 0:
            return
