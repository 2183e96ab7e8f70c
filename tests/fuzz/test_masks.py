"""Text, spans, tokens, mask, packed windows: exact for any Unicode, by a reference that goes character by character."""

import json
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacy_jax.config import AnnotateConfig, CorpusConfig, RuleConfig
from lacy_jax.data.annotators import spans_file
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document, Spans, full_text, split_of, text_offset
from lacy_jax.data.hf_tokenizer import HfTokenizer
from lacy_jax.data.pack import encode_documents, open_packed, write_packed
from lacy_jax.data.tokenizer import TextTokenizer, Tokenizer, train_tokenizer
from tests.checkpoints.test_gguf import write_gguf
from tests.fuzz.values import EXAMPLES, fuzz
from tests.hf_folders import CORPUS, control_ids, random_tensors, settings_of, tokenizer_json

# What breaks text: NUL, other ends of lines, right to left, combining, joined emoji, wide and private characters, the
# sign that SentencePiece writes spaces with, names of control tokens, runs of symbols.
BROKEN = [
    "", " ", "\x00", "a\x00b", "\r\n\r", "\u2028\x85\x0b\x0c", "\u202eabc\u202c \u05d0\u05d1 1867 \u0661",
    "e\u0301\u0301", "\u0301", "👩\u200d👩\u200d👧", "🏴\U000e0067\U000e007f", "\u2581a\u2581\u2581",
    "</s><CALL><|endoftext|><0x41>", "!" * 900, "\ufffd\ufeff\uffff\U0010ffff", "東京は1867年。",
    "\u00a0\u3000\u200b", "ǅ ﬁ İ ß", "\ud7a3\u1100\u1161",
]  # fmt: skip
characters = st.characters(exclude_categories=["Cs"]) | st.characters(min_codepoint=0x10000, max_codepoint=0x10FFFF)
texts = st.lists(st.text(characters, max_size=12) | st.sampled_from(BROKEN), max_size=6).map("".join)


@st.composite
def spans_in(draw: st.DrawFn, length: int) -> list[tuple[int, int, str]]:
    if not length:
        return []
    raw = draw(st.lists(st.tuples(st.integers(0, length - 1), st.integers(1, 12)), max_size=8))
    return [(start, min(length, start + size), draw(st.sampled_from(["GPE", "NUM"]))) for start, size in raw]


rules = st.builds(
    RuleConfig,
    kinds=st.sampled_from(["entity,PROPN,NUM", "entity"]),
    exclude_subjects=st.booleans(),
    first_mention_only=st.booleans(),
    sub_tokens=st.sampled_from(["all", "first"]),
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextTokenizer]:
    """Two trained here, one of them on text without spaces, one of bytes of Hugging Face's, and one of a GGUF file."""
    from lacy_jax.checkpoints.loading import load_model

    start, end = control_ids("gpt2")
    settings = settings_of("llama3")
    settings.pop("rope_scaling", None)
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(file, "llama3", settings, random_tensors(settings))
    return {
        "own": Tokenizer(train_tokenizer(CORPUS, vocab_size=400)),
        "spaceless": Tokenizer(train_tokenizer(["東京都と大阪府と京都府。"] * 9, vocab_size=290)),
        "hf": HfTokenizer(tokenizer_json("gpt2"), start_id=start, end_id=end),
        "gguf": load_model(str(file)).tokenizer,
    }


def mask_of(
    document: Document, spans: Spans, ids: list[int], *, tokenizer: TextTokenizer, rule: RuleConfig
) -> list[bool]:
    """Which tokens are factual, by docs/annotation.md: character by character, and by the bytes of tokens alone."""
    text = full_text(document)
    owner = [place for place, character in enumerate(text) for _ in character.encode()]  # of each byte
    held, position = [], 0  # the characters of each token
    for index in ids:
        size = len(tokenizer.decode_bytes([index]))
        held.append({owner[byte] for byte in range(position, position + size)})
        position += size
    assert position == len(owner)
    factual = [False] * len(ids)
    for start, end, kind, subject, repeated in zip(
        spans.starts.tolist(), spans.ends.tolist(), spans.kinds, spans.subject, spans.repeated, strict=True
    ):
        if (kind == "NUM" and "NUM" not in rule.kinds) or (subject and rule.exclude_subjects):
            continue
        if repeated and rule.first_mention_only:
            continue
        solid = {place for place in range(start, end) if not text[place].isspace()}
        sharing = [token for token, own in enumerate(held) if own & solid]
        for token in sharing if rule.sub_tokens == "all" else sharing[:1]:
            factual[token] = True
    return factual


@fuzz
@given(data=st.data())
@pytest.mark.parametrize("name", ["own", "spaceless", "hf", "gguf"])
def test_the_mask_is_the_references(tokenizers: dict[str, TextTokenizer], name: str, data: st.DataObject) -> None:
    tokenizer = tokenizers[name]
    document = Document("d", data.draw(st.sampled_from(["", "Ti\u0301tle"])), data.draw(texts))
    offset, found = text_offset(document), sorted(data.draw(spans_in(len(document.text))))
    flags = st.lists(st.booleans(), min_size=len(found), max_size=len(found)).map(lambda each: np.array(each, bool))
    spans = Spans(
        starts=np.array([offset + start for start, _, _ in found], np.int32),
        ends=np.array([offset + end for _, end, _ in found], np.int32),
        kinds=tuple(kind for _, _, kind in found),
        subject=data.draw(flags),
        repeated=data.draw(flags),
    )
    rule = data.draw(rules)
    (encoded,) = encode_documents([(document, spans)], tokenizer=tokenizer, rule=rule, validation_share=0.5)
    ids = encoded.ids.tolist()
    assert tokenizer.decode_bytes(ids) == full_text(document).encode()
    assert not {tokenizer.end_id, tokenizer.call_id}.intersection(ids)
    assert encoded.factual.tolist() == mask_of(document, spans, ids, tokenizer=tokenizer, rule=rule)


def random_text(draw: random.Random) -> str:
    """Broken inputs and characters of all planes, assigned or not."""

    def part() -> str:
        if draw.random() < 0.4:
            return draw.choice(BROKEN)
        plane = draw.choice([0, 0, 0, 1, 2, 3, 14, 15, 16]) * 0x10000
        points = (plane + draw.randrange(0x10000) for _ in range(draw.randrange(1, 20)))
        return "".join(chr(point) for point in points if not 0xD800 <= point <= 0xDFFF)

    return "".join(part() for _ in range(draw.randrange(8)))


def windows(source: object, length: int) -> Iterator[tuple[int, bool]]:
    """(token, factual) of all windows of a split, each once."""
    for number in range(len(source)):  # type: ignore[arg-type]
        record = source[number]  # type: ignore[index]
        first = 0 if number == 0 else 1
        yield from zip(
            record["tokens"][first : record["length"]].tolist(),
            record["factual"][first : record["length"]].tolist(),
            strict=True,
        )
        assert len(record["tokens"]) == length + 1


@pytest.mark.parametrize("name", ["own", "spaceless", "hf", "gguf"])
def test_what_is_packed_is_the_reference(tokenizers: dict[str, TextTokenizer], name: str, tmp_path: Path) -> None:
    """From files, with lines of bad UTF-8 between the others, to the bits of the windows."""
    tokenizer, draw, rule = tokenizers[name], random.Random(EXAMPLES), RuleConfig()
    rows = [{"id": str(i), "title": draw.choice(["", "é"]), "text": random_text(draw)} for i in range(2 * EXAMPLES)]
    rows.append({"id": "huge", "title": "", "text": "".join(random_text(draw) for _ in range(400))})
    marks = []
    for row in rows:
        starts = [draw.randrange(len(row["text"])) for _ in range(draw.randrange(6))] if row["text"] else []
        ends = [min(len(row["text"]), start + draw.randrange(1, 9)) for start in starts]
        marks.append(
            {"id": row["id"], "spans": [[a, b, draw.choice(["GPE", "NUM"])] for a, b in zip(starts, ends, strict=True)]}
        )
    bad = b'{"id": "bad", "text": "\xff\xfe"}\n'
    (tmp_path / "a.jsonl").write_bytes(
        bad.join(json.dumps(row).encode() + b"\n" for row in rows[:9])
        + b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows[9:])
    )
    (tmp_path / "marks.jsonl").write_text("".join(json.dumps(mark) + "\n" for mark in marks))
    left_out: list[str] = []
    documents = list(
        read_documents(
            CorpusConfig(name="jsonl", files=str(tmp_path / "a.jsonl")),
            left_out=lambda where, _: left_out.append(where),
        )
    )
    assert len(left_out) == 8
    assert [(each.title, each.text) for each in documents] == [(row["title"], row["text"]) for row in rows]

    settings = AnnotateConfig(annotator="spans", spans_file=str(tmp_path / "marks.jsonl"))
    marked = list(spans_file.mark(documents, settings))
    for (document, spans), mark in zip(marked, marks, strict=True):
        offset = text_offset(document)
        own = sorted((a + offset, b + offset) for a, b, _ in mark["spans"])
        assert sorted(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True)) == own
    write_packed(
        encode_documents(marked, tokenizer=tokenizer, rule=rule, validation_share=0.3),
        directory=tmp_path,
        name="masks",
        fingerprint={"tokenizer": tokenizer.fingerprint, "window": 32, "rule": {}, "validation_share": 0.3},
        tokenizer=tokenizer,
        window=32,
        progress=lambda *_: None,
    )
    packed = open_packed(tmp_path / "packed" / "masks" / "1.0.0")
    for split, source in (("train", packed.train), ("validation", packed.validation)):
        found = list(windows(source, 32))
        assert found[0] == (tokenizer.end_id, False)
        position = 1
        for document, spans in marked:
            if split_of(document.id, validation_share=0.3) != split:
                continue
            end = next(i for i in range(position, len(found)) if found[i][0] == tokenizer.end_id)
            ids = [index for index, _ in found[position:end]]
            assert tokenizer.decode_bytes(ids) == full_text(document).encode()
            expected = mask_of(document, spans, ids, tokenizer=tokenizer, rule=rule)
            assert [bit for _, bit in found[position:end]] == expected
            assert found[end] == (tokenizer.end_id, False)
            position = end + 1
        assert position == len(found)


def test_the_texts_have_what_they_should() -> None:
    """Right to left, combining, unassigned, private, and every plane that has characters."""
    draw = random.Random(0)
    found = "".join(random_text(draw) for _ in range(300))
    assert {unicodedata.category(each) for each in found} >= {"Cc", "Cf", "Cn", "Co", "Mn", "Lo", "So", "Zs", "Zl"}
    assert {ord(each) >> 16 for each in found} >= {0, 1, 2, 3, 14, 15, 16}
