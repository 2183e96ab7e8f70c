"""Round trips and character offsets, against Python's own strings."""

import io

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.read_tokenizer import tokenizer_of_file
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer
from lacy_jax.errors import DataError

TEXTS = [f"{document.title}\n\n{document.text}" for document in read_documents(CorpusConfig(max_documents=200))]
HARD = [
    "",
    " ",
    "\n",
    "\n\n",
    "  two  spaces  ",
    "a\r\nb\rc\td",
    "nul\0inside",
    "\u2581",
    "a\u2581 \u2581\u2581b",
    "</s><s><unk><CALL><0x41>",
    "<0x0A>\u2581</s>",
    "flags 🇩🇪, families 👩‍👩‍👧, e\u0301 and é, ﬁ, ½, Å",
    "\ufeffbyte order mark\u200b",
    "12,345 and 3.14",
    "\U0010ffff\ud7ff\ue000\ufffd\ufffe",
    "".join(map(chr, range(0x2500, 0x25A0))),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer(TEXTS, vocab_size=600))


def loaded(**options: object) -> Tokenizer:
    """A tokenizer with other habits than ours, as one downloaded may have."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=600,
        minloglevel=2,
        **{"model_type": "bpe", "byte_fallback": True} | options,
    )
    return Tokenizer(model.getvalue())


def check_exact(tokenizer: Tokenizer, text: str) -> None:
    encoding = tokenizer.encode(text)
    assert encoding.ids.dtype == encoding.starts.dtype == encoding.ends.dtype == np.int32
    assert tokenizer.decode(encoding.ids) == text
    assert tokenizer.decode_bytes(encoding.ids) == text.encode()
    assert not {tokenizer.call_id, tokenizer.end_id} & set(encoding.ids.tolist())
    assert tokenizer.byte_lengths[encoding.ids].sum() == len(text.encode())
    # Where each token lies in the UTF-8 bytes, by adding up lengths; then in characters, by Python's decoder.
    position = 0
    for index, start, end in zip(encoding.ids.tolist(), encoding.starts, encoding.ends, strict=True):
        piece = tokenizer.decode_bytes([index])
        assert piece
        before = text.encode()[:position].decode(errors="ignore")
        through = text.encode()[: position + len(piece)].decode(errors="replace")
        assert (start, end) == (len(before), len(through))
        position += len(piece)


@pytest.mark.parametrize("text", HARD, ids=ascii)
def test_hard_texts_are_exact(tokenizer: Tokenizer, text: str) -> None:
    check_exact(tokenizer, text)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_unicode_is_exact(tokenizer: Tokenizer, text: str) -> None:
    check_exact(tokenizer, text)


@given(st.lists(st.sampled_from(["\u2581", " ", "\n", "the", "<CALL>", "</s>", "<0xE2>", "é", "🙂", "\0", "7"])))
def test_sequences_of_traps_are_exact(tokenizer: Tokenizer, parts: list[str]) -> None:
    check_exact(tokenizer, "".join(parts))


def test_articles_are_exact_and_split_as_asked(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        check_exact(tokenizer, text)
    tokens = [tokenizer.decode_bytes([index]).decode(errors="replace") for index in range(tokenizer.pieces)]
    digits = [token for token in tokens if any(c.isdigit() for c in token)]
    assert {*"0123456789"} <= {token.strip() for token in digits}
    assert all(len(token.strip()) == 1 for token in digits)
    assert [token for token in tokens if "\n" in token] == ["\n"]


def test_special_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces == 600
    assert tokenizer.vocab_size == 601
    assert tokenizer.call_id == 600
    assert tokenizer.byte_lengths.shape == (601,)
    assert tokenizer.byte_lengths[[tokenizer.call_id, tokenizer.end_id]].tolist() == [0, 0]
    assert tokenizer.decode([tokenizer.call_id, tokenizer.end_id]) == ""


def test_partial_characters(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🙂").ids
    assert len(ids) == 4
    assert tokenizer.decode(ids[:3]) == "\ufffd"
    assert tokenizer.decode_bytes(ids[:3]) + tokenizer.decode_bytes(ids[3:]) == "🙂".encode()
    assert tokenizer.decode_bytes(ids[:1]) == b"\xf0"


def test_training_is_deterministic_and_reads_no_more_than_asked() -> None:
    model = train_tokenizer(TEXTS, vocab_size=500)
    assert train_tokenizer(iter(TEXTS), vocab_size=500) == model
    assert train_tokenizer(TEXTS[:50], vocab_size=500) != model
    some = sum(map(len, TEXTS[:50]))
    assert train_tokenizer(TEXTS, vocab_size=500, characters=some) == train_tokenizer(TEXTS[:50], vocab_size=500)
    assert Tokenizer(model).fingerprint == Tokenizer.from_bytes(model).fingerprint


def test_very_long_lines_are_read() -> None:
    text = " ".join(TEXTS).replace("\n", " ")
    assert Tokenizer(train_tokenizer([text], vocab_size=500)).pieces == 500


@pytest.mark.parametrize(
    "options",
    [
        {"normalization_rule_name": "identity"},  # Llama: spaces kept, one added in front
        {"normalization_rule_name": "nmt_nfkc"},
        {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc_cf"},
        {"byte_fallback": False},
    ],
    ids=str,
)
def test_offsets_of_other_tokenizers_are_monotone(options: dict[str, object]) -> None:
    other = loaded(**options)
    for text in HARD + TEXTS[:20]:
        encoding = other.encode(text)
        starts, ends = encoding.starts, encoding.ends
        assert np.all(np.diff(starts) >= 0)
        assert np.all(np.diff(ends) >= 0)
        assert np.all((starts >= 0) & (starts <= ends) & (ends <= len(text)))
        visible = [i for i, c in enumerate(text) if c.isalnum() and c.isascii()]
        assert all(np.any((starts <= i) & (i < ends)) for i in visible)
        assert not {other.call_id, other.end_id} & set(encoding.ids.tolist())


def test_added_space_is_dropped_and_stands_for_nothing() -> None:
    other = loaded(normalization_rule_name="identity", remove_extra_whitespaces=False)
    encoding = other.encode("Paris in 1900")
    assert other.decode(encoding.ids) == "Paris in 1900"
    assert other.decode_bytes(encoding.ids) == b" Paris in 1900"
    assert (encoding.starts[0], encoding.ends[-1]) == (0, 13)


def test_all_bytes_of_an_expanded_character_carry_it() -> None:
    encoding = loaded(normalization_rule_name="nmt_nfkc").encode("a㍿b")  # one character, four when normalized
    inside = (encoding.starts == 1) & (encoding.ends == 2)
    assert inside.sum() == 12


def test_errors(tmp_path, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="lone surrogate"):
        tokenizer.encode("a\ud800b")
    with pytest.raises(DataError, match=r"cannot read .*none\.model"):
        tokenizer_of_file(tmp_path / "none.model")
    with pytest.raises(DataError, match="not a SentencePiece model"):
        Tokenizer(b"no model")
    with pytest.raises(DataError, match="</s>"):
        loaded(eos_id=-1)
    with pytest.raises(
        DataError,
        match=r"config\.tokenizer\.vocab_size=5000: the text is too short for a tokenizer \(281 pieces at most\)",
    ):
        train_tokenizer(["too little"], vocab_size=5000)
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(["", "\n"], vocab_size=300)
