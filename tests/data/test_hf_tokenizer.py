"""Tokenizers of Hugging Face folders: exact bytes, exact characters, control tokens apart."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lacy_jax.cascade.decoding.engine import encode_text
from lacy_jax.data.hf_tokenizer import HfTokenizer
from lacy_jax.data.tokenizer import starting_with
from lacy_jax.errors import ConfigError, DataError
from tests.hf_folders import CONTROL, control_ids, tokenizer_json

TEXTS = [
    "", " ", "  two  spaces ", "Albert Einstein", "in 1879, 1,234.5", "naïve café", "東京", "😀👩\u200d👧", "a\r\nb\n",
    "\x00\t", "<|endoftext|> </s> <s> <|begin_of_text|>", "e\u0301", "\u2581",
]  # fmt: skip


def tokenizer_of(style: str) -> HfTokenizer:
    start, end = control_ids(style)
    return HfTokenizer(tokenizer_json(style), start_id=start, end_id=end)


MADE = {style: tokenizer_of(style) for style in CONTROL}


def check(tokenizer: HfTokenizer, text: str, *, added: bytes) -> None:
    encoding = tokenizer.encode(text)
    ids = encoding.ids.tolist()
    assert tokenizer.decode_bytes(ids) == (added + text.encode() if text else b"")
    assert not {tokenizer.start_id, tokenizer.end_id} & set(ids)
    assert (np.diff(encoding.starts) >= 0).all()
    assert (np.diff(encoding.ends) >= 0).all()
    if text:
        assert encoding.ends[-1] == len(text)
    for index, start, end in zip(ids, encoding.starts, encoding.ends, strict=True):
        # A token's bytes lie within the characters it is said to stand for, which hold no more than they must.
        token = tokenizer.decode_bytes([index])
        held = text[start:end].encode()
        assert token in held or (start == 0 and token.removeprefix(b" ") in held)
        assert len(text[start:end]) <= max(len(token), 0)


@pytest.mark.parametrize("style", ["gpt2", "llama3"])
@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_tokens_are_the_texts_bytes(style: str, text: str) -> None:
    check(MADE[style], text, added=b"")


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text(text: str) -> None:
    check(MADE["gpt2"], text, added=b"")
    if "\u2581" not in text:
        check(MADE["llama2"], text, added=b" ")


@pytest.mark.parametrize("text", [text for text in TEXTS if "\u2581" not in text])
def test_sentencepiece_like_tokens_have_a_space_more(text: str) -> None:
    check(MADE["llama2"], text, added=b" ")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("style", MADE)
def test_ids_are_the_librarys(style: str, text: str) -> None:
    definition = tokenizer_json(style)
    reference = Tokenizer.from_str(definition)
    if "<" in text:  # there, control tokens are meant to be spelt out
        assert len(MADE[style].encode(text)) > len(reference.encode(text, add_special_tokens=False).ids)
    else:
        ids = reference.encode(text, add_special_tokens=False).ids
        assert MADE[style].encode(text).ids.tolist() == ids
        decoded = MADE[style].decode_bytes(ids).decode()
        assert reference.decode(ids) == (decoded.removeprefix(" ") if style == "llama2" else decoded)


@pytest.mark.parametrize("style", MADE)
def test_ids_and_lengths(style: str) -> None:
    tokenizer = MADE[style]
    assert tokenizer.vocab_size == tokenizer.call_id + 1 == len(tokenizer.byte_lengths)
    for index in (tokenizer.start_id, tokenizer.end_id, tokenizer.call_id):
        assert tokenizer.byte_lengths[index] == 0
    lengths = [len(tokenizer.decode_bytes([index])) for index in range(tokenizer.call_id)]
    assert tokenizer.byte_lengths[:-1].tolist() == lengths
    assert sum(length == 0 for length in lengths) == {"gpt2": 1, "llama3": 2, "llama2": 3}[style]
    assert tokenizer.fingerprint == tokenizer_of(style).fingerprint


def test_texts_start_after_the_end_where_nothing_starts_them() -> None:
    assert MADE["gpt2"].start_id == MADE["gpt2"].end_id
    assert MADE["llama3"].start_id != MADE["llama3"].end_id


CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def chat_tokenizer(tmp_path: Path, **settings: Any) -> Path:
    """A folder as SmolLM2's: it ends messages by a token of its own, and names one that begins them."""
    tokenizer = Tokenizer.from_str(tokenizer_json("gpt2"))
    tokenizer.add_special_tokens([*CHAT, "<|eot_id|>", "<pad>"])
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"} | settings
    kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
    return folder_with(tmp_path, tokenizer.to_str(), tokenizer_config=names | kind, config={})


def test_what_stands_before_a_text_follows_the_tokenizers_own_rule(tmp_path: Path) -> None:
    """As transformers puts it there; a text that nothing is put before follows the end of a document."""
    for style, rule, start in (
        ("llama3", {}, "<|begin_of_text|>"),
        ("llama3", {"add_bos_token": False}, "<|end_of_text|>"),
        ("gpt2", {}, "<|endoftext|>"),
        ("gpt2", {"add_bos_token": True}, "<|endoftext|>"),
    ):
        begin, end = CONTROL[style]
        names = {"bos_token": begin or end, "eos_token": end} | rule
        folder = folder_with(tmp_path, tokenizer_json(style), tokenizer_config=names, config={})
        tokenizer = HfTokenizer.from_folder(folder)
        assert tokenizer.start_id == tokenizer.control_tokens()[start], (style, rule)
    chat = HfTokenizer.from_folder(chat_tokenizer(tmp_path))
    ids = chat.control_tokens()
    assert (chat.start_id, chat.end_id) == (ids["<|endoftext|>"], ids["<|endoftext|>"])
    assert HfTokenizer.from_folder(chat_tokenizer(tmp_path, add_bos_token=True)).start_id == ids["<|im_start|>"]


@pytest.mark.parity
@pytest.mark.parametrize("style", ["gpt2", "llama3", "chat"])
def test_transformers_puts_the_same_before_a_text(tmp_path: Path, style: str) -> None:
    transformers = pytest.importorskip("transformers")
    if style == "chat":
        folder = chat_tokenizer(tmp_path)
    else:
        begin, end = CONTROL[style]
        names = {"bos_token": begin or end, "eos_token": end, "tokenizer_class": "PreTrainedTokenizerFast"}
        folder = folder_with(tmp_path, tokenizer_json(style), tokenizer_config=names, config={})
    tokenizer, theirs = HfTokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    own = tokenizer if style == "llama3" else starting_with(tokenizer, "none")
    for text in ("Ulm", "born in 1879"):
        assert theirs(text)["input_ids"] == encode_text(own, text)


def test_every_token_that_ends_a_text_does(tmp_path: Path) -> None:
    chat = HfTokenizer.from_folder(chat_tokenizer(tmp_path))
    ids = chat.control_tokens()
    assert chat.end_ids[0] == chat.end_id
    assert set(chat.end_ids) == {ids[name] for name in ("<|im_end|>", "<|endoftext|>", "<|eot_id|>")}
    pad = ids["<pad>"]
    folder = folder_with(chat_tokenizer(tmp_path), None, generation_config={"eos_token_id": [ids["<|im_end|>"], pad]})
    named = HfTokenizer.from_folder(folder)
    assert named.end_id == chat.end_id
    assert set(named.end_ids) == {*chat.end_ids, pad}


def test_another_start_is_a_control_token() -> None:
    tokenizer = MADE["llama3"]
    assert starting_with(tokenizer, "auto") is tokenizer
    assert encode_text(starting_with(tokenizer, "none"), "Ulm") == tokenizer.encode("Ulm").ids.tolist()
    assert encode_text(starting_with(tokenizer, "none"), "") == [tokenizer.end_id]
    ended = starting_with(tokenizer, "<|end_of_text|>")
    assert encode_text(ended, "Ulm") == [tokenizer.end_id, *tokenizer.encode("Ulm").ids.tolist()]
    assert tokenizer.start_id != tokenizer.end_id  # the tokenizer itself is as it was
    with pytest.raises(ConfigError, match=r"start_token=<\|end_of_txt\|>: .*did you mean <\|end_of_text\|>\?"):
        starting_with(tokenizer, "<|end_of_txt|>")


def test_a_normalizing_tokenizer_keeps_offsets() -> None:
    definition = json.loads(tokenizer_json("gpt2")) | {"normalizer": {"type": "NFC"}}
    tokenizer = HfTokenizer(json.dumps(definition), start_id=None, end_id=MADE["gpt2"].end_id)
    text = "cafe\u0301 in Ulm"
    encoding = tokenizer.encode(text)
    assert encoding.ends[-1] == len(text)
    assert tokenizer.decode_bytes(encoding.ids.tolist()).decode() == "caf\u00e9 in Ulm"


def folder_with(tmp_path: Path, definition: str | None, **files: Any) -> Path:
    if definition is not None:
        (tmp_path / "tokenizer.json").write_text(definition)
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    "files",
    [
        {"config": {"bos_token_id": 400, "eos_token_id": [401, 400]}},
        {"config": {"bos_token_id": None, "eos_token_id": None},
         "tokenizer_config": {"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|end_of_text|>"}},
        {"config": {}, "generation_config": {"bos_token_id": 400, "eos_token_id": [401, 400]},
         "tokenizer_config": {"eos_token": "<|begin_of_text|>"}},
    ],
)  # fmt: skip
def test_where_texts_start_and_end_is_read_from_the_folder(tmp_path: Path, files: dict[str, Any]) -> None:
    tokenizer = HfTokenizer.from_folder(folder_with(tmp_path, tokenizer_json("llama3"), **files))
    assert (tokenizer.start_id, tokenizer.end_id) == (400, 401)


@pytest.mark.parametrize(
    ("definition", "config", "named"),
    [
        (None, {"eos_token_id": 1}, r"no .*tokenizer\.json.*save_pretrained"),
        ("{", {"eos_token_id": 1}, r"cannot read tokenizer\.json"),
        ("{}", {"eos_token_id": 1}, r"not a tokenizer\.json"),
        (tokenizer_json("gpt2"), {}, "eos_token_id"),
        (tokenizer_json("gpt2"), {"eos_token_id": 50256}, "50256.*0 to 400"),
        (tokenizer_json("gpt2"), {"eos_token_id": 1, "bos_token_id": 50256}, "bos_token_id is 50256"),
        (tokenizer_json("gpt2").replace('"decoder":{"type":"ByteLevel"', '"decoder":{"type":"Fuse"'),
         {"eos_token_id": 1}, "Fuse.*ByteLevel"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(tmp_path: Path, definition: str | None, config: dict, named: str) -> None:
    with pytest.raises(DataError, match=named):
        HfTokenizer.from_folder(folder_with(tmp_path, definition, config=config))


def unigram(*, letters: str) -> HfTokenizer:
    """As llm-jp's: control tokens and bytes are pieces of the model, so it may choose them for a text."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters]
    made = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return HfTokenizer(made.to_str(), start_id=1, end_id=2)


@pytest.mark.parametrize("letters", ["abcdefghijklmnopqrstuvwxyz</>0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abx"])
@pytest.mark.parametrize(
    "text", ["a</s>b", "</s>", "<s> x", "x <unk> y", "<0x41>", "日本語 </s>", "a<s></s></s>", "x <0xE6> 東 é", "plain"]
)
def test_names_of_control_tokens_in_a_text_are_spelt_out(letters: str, text: str) -> None:
    check(unigram(letters=letters), text, added=b" ")


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(DataError, match="surrogate"):
        MADE["gpt2"].encode("a\ud800")


@pytest.mark.parametrize("place", ["vocab", "added_tokens"])
def test_an_id_beyond_what_the_file_can_hold_is_refused(place: str) -> None:
    """A table of all ids up to it would take gigabytes."""
    definition = json.loads(tokenizer_json("gpt2"))
    if place == "vocab":
        definition["model"]["vocab"]["zzz"] = 5 * 10**8
    else:
        definition["model"]["vocab"]["zzz"] = 4 * 10**8
        definition["added_tokens"].append({**definition["added_tokens"][0], "content": "zzz", "id": 4 * 10**8})
    with pytest.raises(DataError, match=r"a token of id [45]00000000, but only \d+ characters"):
        HfTokenizer(json.dumps(definition), start_id=None, end_id=0)


def test_a_normalizer_that_lets_texts_grow_without_end_is_refused() -> None:
    definition = json.loads(tokenizer_json("llama2"))
    doubling = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    for count, refused in ((6, False), (7, True), (60, True)):
        definition["normalizer"] = {"type": "Sequence", "normalizers": [doubling] * count}
        with pytest.raises(DataError, match="characters of one") if refused else contextlib.nullcontext():
            HfTokenizer(json.dumps(definition), start_id=1, end_id=2)
