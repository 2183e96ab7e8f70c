"""The tokenizer of a Hugging Face folder (tokenizer.json), and the exact bytes that every token stands for.

Two ways to write text as tokens are known. Byte-level (GPT-2, Llama 3): every byte is a printable character of its
own. SentencePiece-like (Llama 2): a space is U+2581, and characters outside the vocabulary are spelt in tokens
such as <0xE6>.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from lacy_jax.data.files import parse_json
from lacy_jax.data.tokenizer import Encoding
from lacy_jax.errors import DataError

TOKENIZER_FILE = "tokenizer.json"

# Where the ids of control tokens stand; an earlier file has priority.
_SETTINGS_FILES = ("config.json", "generation_config.json", "tokenizer_config.json")
# What stood between documents where models of many families were pretrained.
BETWEEN_DOCUMENTS = "<|endoftext|>"
# Control tokens that end a text by their names, as in llama.cpp (src/llama-vocab.cpp): a model that was taught to chat
# names only the end of a message as its end, and after plain text writes the end of a document.
END_NAMES = (BETWEEN_DOCUMENTS, "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<EOT>")
MOST_GROWTH = 100  # characters that a normalizer may make of one
_SPACE = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class HfTokenizer:
    """A tokenizer.json with the attributes of `TextTokenizer`. It has no `<CALL>`; `call_id` follows its last token.

    Special tokens stand for no bytes, and no text encodes to them: "<|endoftext|>" in a text is spelt out.
    """

    def __init__(self, definition: str, *, start_id: int | None, end_id: int, more_ends: Iterable[int] = ()) -> None:
        """`definition`: the JSON of tokenizer.json.

        Args:
            start_id: what the tokenizer puts before a text. None: nothing, and a text follows the end of a document.
                That is measured to be best (docs/cascade.md).
            end_id: what ends a text. A document ends with what stood between documents in pretraining,
                `BETWEEN_DOCUMENTS` where there is such a control token, and else with this.
            more_ends: other tokens that end a text, beside those of `END_NAMES`.

        Raises:
            DataError: no such JSON, tokens written in a way not known here, or an id that is no token.
        """
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(definition)
            parsed = parse_json(definition)
            if (growth := _growth(parsed.get("normalizer"))) > MOST_GROWTH:
                raise DataError(f"tokenizer: the normalizer in {TOKENIZER_FILE} makes {growth:g} characters of one")
            self._bytes = _token_bytes(self._tokenizer, parsed, size=len(definition))
        except DataError:
            raise
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"tokenizer: not a {TOKENIZER_FILE} that tokenizers can read ({error})") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # as plain text, that is
        self.call_id = len(self._bytes)
        self.vocab_size = self.call_id + 1
        self.byte_lengths = np.array([*map(len, self._bytes), 0], np.int32)
        self._json, self._ends = definition, [end_id, *more_ends]
        self.fingerprint = hashlib.sha256(definition.encode()).hexdigest()
        ends, names = self._ends, self.control_tokens()
        self.end_id = names.get(BETWEEN_DOCUMENTS, end_id)
        self.start_id: int | None = self.end_id if start_id is None else start_id
        self.end_ids = tuple(dict.fromkeys([self.end_id, *ends, *(names[name] for name in END_NAMES if name in names)]))
        for name, index in (("bos_token_id", self.start_id), *(("eos_token_id", end) for end in ends)):
            if not 0 <= index < self.call_id:
                raise DataError(f"tokenizer: {name} is {index}, but its tokens are 0 to {self.call_id - 1}")
            # Whatever its flags say, it is not text.
            self._bytes[index], self.byte_lengths[index] = b"", 0
        self._control = {index for index, piece in enumerate(self._bytes) if not piece}
        self._never_text = {
            index: token
            for token, index in self._tokenizer.get_vocab(with_added_tokens=True).items()
            if index in self._control or _BYTE_TOKEN.fullmatch(token)
        }

    @classmethod
    def from_folder(cls, folder: str | Path) -> "HfTokenizer":
        """Reads tokenizer.json, and where texts start and end from the first of `_SETTINGS_FILES` that says it.

        Raises:
            DataError: a file that is missing or cannot be read; no end-of-text token.
        """
        folder = Path(folder)
        path = folder / TOKENIZER_FILE
        try:
            definition = path.read_text(encoding="utf-8")
            settings = [_read_json(folder / name) for name in _SETTINGS_FILES]
            added = parse_json(definition).get("added_tokens", [])
            ids = {token["content"]: token["id"] for token in added if isinstance(token["id"], int)}
        except FileNotFoundError:
            raise DataError(
                f"tokenizer: there is no {path}; a slow tokenizer becomes one by transformers' "
                "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            ) from None
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise DataError(
                f"tokenizer: cannot read {TOKENIZER_FILE} and *config.json in {folder} ({error!r})"
            ) from None
        ends, starts = (_control_ids(kind, settings, ids=ids) for kind in ("eos", "bos"))
        if not ends:
            raise DataError(f"tokenizer: {folder} names no end-of-text token: config.json needs eos_token_id")
        made = cls(definition, start_id=starts[0] if starts else None, end_id=ends[0], more_ends=ends[1:])
        rule = settings[-1].get("add_bos_token")
        if rule is False or (rule is None and made.added_start() is None):
            made.start_id = made.end_id
        return made

    def added_start(self) -> int | None:
        """The token that the post-processor puts before a text, None for none."""
        added, plain = (self._tokenizer.encode("a", add_special_tokens=each).ids for each in (True, False))
        return added[0] if len(added) > len(plain) and added[: len(plain)] != plain else None

    @classmethod
    def from_definition(cls, definition: bytes) -> "HfTokenizer":
        """The tokenizer that has this `definition`; raises `DataError` where it is none."""
        try:
            kept = parse_json(definition)
            text, start_id, ends = kept["tokenizer_json"], kept["start_id"], kept["end_ids"]
            if not isinstance(text, str) or not all(isinstance(each, int) for each in (start_id, *ends)):
                raise TypeError("an entry is of another kind")
            return cls(text, start_id=start_id, end_id=ends[0], more_ends=ends[1:])
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"tokenizer: its definition cannot be read ({error!r})") from None

    @property
    def definition(self) -> bytes:
        """JSON: tokenizer.json, and the ids that start and end a text."""
        kept = {"tokenizer_json": self._json, "start_id": self.start_id, "end_ids": self._ends}
        return json.dumps(kept).encode()

    def encode(self, text: str) -> Encoding:
        """The tokens of `text`, without any control token; raises `DataError` at a lone surrogate."""
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            raise DataError(f"tokenizer: not valid Unicode (a lone surrogate?): {text[:80]!a}") from None
        found = self._tokenizer.encode(text, add_special_tokens=False)
        tokens = [each for token in zip(found.ids, found.offsets, strict=True) for each in self._spelt(text, *token)]
        ids = np.array([index for index, _ in tokens], np.int32)
        pieces = [self._bytes[index] for index, _ in tokens]
        added = 1 if b"".join(pieces) == b" " + raw else 0  # a space before the text
        if added or b"".join(pieces) == raw:
            starts, ends = _character_spans(raw, pieces, added=added)
        else:  # it normalizes text: the library's word for it
            starts, ends = np.array([offsets for _, offsets in tokens], np.int32).reshape(-1, 2).T
        return Encoding(ids=ids, starts=starts, ends=ends)

    def _spelt(self, text: str, index: int, offsets: tuple[int, int]) -> list[tuple[int, tuple[int, int]]]:
        """A token and where it stands; its characters instead if the text only spells a control token's name.

        A Unigram model takes "</s>" or "<0x41>" in a text for the piece of that name.
        """
        token = self._never_text.get(index)
        if token is None or text[slice(*offsets)] != token:
            return [(index, offsets)]
        spelt = []
        for start, character in enumerate(token, start=offsets[0]):
            spelt += [(each, (start, start + 1)) for each in self._character(character)]
        return spelt

    def _character(self, character: str) -> list[int]:
        """One character as a token of its own, in tokens of bytes, or unknown; never a control token's id."""
        ids = [self._tokenizer.token_to_id(character)]
        if ids[0] is None or ids[0] in self._never_text:
            ids = [self._tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in character.encode()]
        return [each for each in ids if each is not None]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes of `ids`, which may begin or end inside a character."""
        return b"".join([self._bytes[index] for index in ids])

    def control_tokens(self) -> dict[str, int]:
        """The tokens that are no text, by name."""
        named = self._tokenizer.get_vocab(with_added_tokens=True)
        return {name: index for name, index in named.items() if not self._bytes[index]}


def _read_json(path: Path) -> dict[str, Any]:
    settings: Any = parse_json(path.read_bytes()) if path.exists() else {}
    if not isinstance(settings, dict):
        raise TypeError(f"{path.name} is no JSON object")
    return settings


def _control_ids(kind: str, settings: Sequence[dict[str, Any]], *, ids: Mapping[str, int]) -> list[int]:
    """The ids of the tokens "bos" or "eos": first that which stands first, then others that other files name."""
    found: list[int] = []
    for each in settings:
        index = each.get(f"{kind}_token_id")
        found += [one for one in (index if isinstance(index, list) else [index]) if isinstance(one, int)]
        token = each.get(f"{kind}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token in ids:
            found.append(ids[token])
    return list(dict.fromkeys(found))


def _byte_alphabet() -> dict[str, int]:
    """The character for each byte in byte-level tokens: visible Latin-1 stands for itself, the rest from U+0100 on.

    Source: github.com/openai/gpt-2, src/encoder.py.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(visible))
    return {chr(byte): byte for byte in visible} | {chr(0x100 + nth): byte for nth, byte in enumerate(others)}


def _token_bytes(tokenizer: tokenizers.Tokenizer, definition: dict[str, Any], *, size: int) -> list[bytes]:
    """The bytes of every id, b"" for special tokens and for ids that no token has.

    size: characters of the definition. Each token takes several of them, so a definition with such a large id lies.
    """
    in_bytes = _writes_bytes(definition.get("decoder"))
    alphabet = _byte_alphabet()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if (highest := max(vocabulary.values(), default=-1)) >= size:
        raise DataError(f"tokenizer: {TOKENIZER_FILE} has a token of id {highest}, but only {size} characters")
    table = [b""] * (highest + 1)
    added = tokenizer.get_added_tokens_decoder()
    for token, index in vocabulary.items():
        byte = None if in_bytes else _BYTE_TOKEN.fullmatch(token)
        if index in added and not byte:
            table[index] = b"" if added[index].special else token.encode()
        elif byte:
            table[index] = bytes([int(byte[1], 16)])
        elif in_bytes:
            table[index] = b"".join(bytes([alphabet[c]]) if c in alphabet else c.encode() for c in token)
        else:
            table[index] = token.replace(_SPACE, " ").encode()
    unknown = definition["model"].get("unk_token")
    if isinstance(unknown, str) and unknown in vocabulary:
        table[vocabulary[unknown]] = b""
    return table


def _growth(normalizer: Any) -> float:
    """How many characters a normalizer's replacements make of one, at most; forty that double it fill any memory."""
    if not isinstance(normalizer, dict):
        return 1.0
    own = 1.0
    if normalizer.get("type") == "Replace":
        found = normalizer["pattern"].get("String", "")
        own = max(1.0, len(normalizer["content"]) / max(1, len(found)))
    return own * math.prod(_growth(each) for each in normalizer.get("normalizers") or [])


def _writes_bytes(decoder: dict[str, Any] | None) -> bool:
    """Whether tokens are byte-level; False: SentencePiece-like.

    Raises:
        DataError: neither.
    """
    parts = (decoder or {}).get("decoders") or [decoder or {}]
    kinds = [part.get("type") for part in parts]
    if "ByteLevel" in kinds:
        return True
    if "Metaspace" in kinds or any(
        part.get("type") == "Replace" and part.get("pattern") == {"String": _SPACE} and part.get("content") == " "
        for part in parts
    ):
        return False
    raise DataError(
        f"tokenizer: {TOKENIZER_FILE} has decoder {' + '.join(map(str, kinds))}; supported are ByteLevel (GPT-2, "
        "Llama 3) and spaces written as U+2581 (Llama 2)"
    )


def _character_spans(raw: bytes, pieces: Sequence[bytes], *, added: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends, int32 [N] in characters, of tokens whose bytes are those of the text after `added` spaces."""
    # The character of each byte of the text, and one more at its end.
    begins = (np.frombuffer(raw, np.uint8) & 0xC0) != 0x80
    character = np.append(np.cumsum(begins) - 1, np.count_nonzero(begins)).astype(np.int32)
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64) - added
    starts = np.maximum(0, ends - [len(piece) for piece in pieces]) if pieces else ends
    filled = ends > starts
    return character[starts], np.where(filled, character[ends - filled] + filled, character[starts]).astype(np.int32)
