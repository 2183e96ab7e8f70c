"""Documents in, windows out, against a reference written with Python lists."""

import collections
import contextlib
import dataclasses
import itertools
import json
import random
import string
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lacy_jax.config import RuleConfig
from lacy_jax.data import datasets, pack
from lacy_jax.data.checksums import write_checksums
from lacy_jax.data.datasets import AnnotatedSource, write_annotated
from lacy_jax.data.documents import Document, Losses, Spans, full_text, split_of
from lacy_jax.data.factual import losses_of_tokens
from lacy_jax.data.pack import PackedSource, encode_documents, open_packed, write_packed
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer
from lacy_jax.errors import DataError

SHARE = 0.3
WINDOW = 16
RULE = RuleConfig()


def make_documents(count: int = 40) -> list[tuple[Document, Spans]]:
    """Documents of made-up words, some capitalised; every capitalised word of the text is a span."""
    rng = random.Random(0)
    documents = []
    for number in range(count):
        words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 7))) for _ in range(rng.randint(1, 60))]
        words = [word.capitalize() if rng.random() < 0.3 else word for word in words]
        text = " ".join(words) + rng.choice(["", "\n\n", " 🙂", "\u2581\0\r\n"])
        title = rng.choice(["", f"Title {number} é"])
        offset = len(title) + 2 if title else 0
        starts = [offset + sum(len(word) + 1 for word in words[:i]) for i in range(len(words))]
        marked = [(start, start + len(word)) for start, word in zip(starts, words, strict=True) if word[0].isupper()]
        spans = Spans(
            starts=np.array([start for start, _ in marked], np.int32),
            ends=np.array([end for _, end in marked], np.int32),
            kinds=tuple(rng.choice(["PROPN", "NUM", "WORK_OF_ART", "mein Typ"]) for _ in marked),
            subject=np.array([rng.random() < 0.2 for _ in marked], np.bool_),
            repeated=np.array([rng.random() < 0.2 for _ in marked], np.bool_),
        )
        documents.append((Document(id=f"id/{number}", title=title, text=text), spans))
    return documents


DOCUMENTS = make_documents()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer([document.text for document, _ in DOCUMENTS] * 3, vocab_size=400))


def annotate(directory: Path, documents: list[tuple[Document, Spans]] = DOCUMENTS) -> AnnotatedSource:
    write_annotated(
        iter(documents),
        directory=directory,
        name="test-0",
        fingerprint={"corpus": {"name": "test"}},
        count=len(documents),
        characters=sum(len(document.text) for document, _ in documents),
    )
    return AnnotatedSource(datasets.dataset_directory(directory, "annotated", name="test-0"))


def fingerprint_of(tokenizer: Tokenizer, window: int = WINDOW) -> dict:
    return {"tokenizer": tokenizer.fingerprint, "rule": {"kinds": "x", "sub_tokens": "all"}, "window": window}


def pack_all(
    directory: Path, tokenizer: Tokenizer, *, window: int = WINDOW, documents=DOCUMENTS, progress=None
) -> Path:
    write_packed(
        encode_documents(documents, tokenizer=tokenizer, rule=RULE, validation_share=SHARE),
        directory=directory,
        name="test-1",
        fingerprint=fingerprint_of(tokenizer, window),
        tokenizer=tokenizer,
        window=window,
        losses=any(spans.losses is not None for _, spans in documents),
        progress=progress or (lambda *_: None),
    )
    return datasets.dataset_directory(directory, "packed", name="test-1")


def naive_stream(tokenizer: Tokenizer, split: str) -> tuple[list[int], list[bool]]:
    tokens, factual = [tokenizer.end_id], [False]
    for document, spans in DOCUMENTS:
        if split_of(document.id, validation_share=SHARE) != split:
            continue
        text = f"{document.title}\n\n{document.text}" if document.title else document.text
        marked = set()
        for start, end, subject, repeated in zip(spans.starts, spans.ends, spans.subject, spans.repeated, strict=True):
            if not subject and not repeated:
                marked |= set(range(start, end))
        position = 0
        for index in tokenizer.encode(text).ids.tolist():
            length = len(tokenizer.decode_bytes([index]))
            before = len(text.encode()[:position].decode(errors="ignore"))
            after = len(text.encode()[: position + length].decode(errors="replace"))
            tokens.append(index)
            factual.append(any(i in marked for i in range(before, after)))
            position += length
        tokens.append(tokenizer.end_id)
        factual.append(False)
    return tokens, factual


def joined(source: PackedSource) -> tuple[list[int], list[bool]]:
    """The stream, from the windows: each begins with the last token of the one before."""
    tokens, factual = source[0]["tokens"][:1].tolist(), source[0]["factual"][:1].tolist()
    for index in range(len(source)):
        record = source[index]
        length = record["length"]
        assert record["tokens"][0] == tokens[-1]
        assert record["factual"][0] == factual[-1]
        tokens += record["tokens"][1:length].tolist()
        factual += record["factual"][1:length].tolist()
    return tokens, factual


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def test_annotated_documents_come_back(tmp_path: Path) -> None:
    source = annotate(tmp_path)
    assert len(source) == len(DOCUMENTS)
    for (document, spans), (read, marks) in zip(DOCUMENTS, source, strict=True):
        assert read == document
        assert marks.kinds == spans.kinds
        for name in ("starts", "ends", "subject", "repeated"):
            np.testing.assert_array_equal(getattr(marks, name), getattr(spans, name), strict=True)


def test_windows_are_the_stream_cut(tmp_path: Path, tokenizer: Tokenizer) -> None:
    packed = open_packed(pack_all(tmp_path, tokenizer))
    for split, source in (("train", packed.train), ("validation", packed.validation)):
        tokens, factual = naive_stream(tokenizer, split)
        assert joined(source) == (tokens, factual)
        assert 0 < sum(factual) < len(factual)
        assert len(source) == -(-(len(tokens) - 1) // WINDOW)  # every token but the first is a target once
        for index in range(len(source)):
            record = source[index]
            assert record["tokens"].shape == record["factual"].shape == (WINDOW + 1,)
            assert (record["tokens"].dtype, record["factual"].dtype) == (np.int32, np.bool_)
            assert record["tokens"][: record["length"]].tolist() == tokens[index * WINDOW : (index + 1) * WINDOW + 1]
            assert (record["length"] == WINDOW + 1) or index == len(source) - 1
            assert (record["tokens"][record["length"] :] == tokenizer.end_id).all()
            assert not record["factual"][record["length"] :].any()
            start, expected = 0, []
            for place, token in enumerate(record["tokens"].tolist()):
                start = place if token == tokenizer.end_id else start
                expected.append(start)
            assert record["starts"].tolist() == expected
        assert packed.statistics[split] == {
            "documents": sum(split_of(document.id, validation_share=SHARE) == split for document, _ in DOCUMENTS),
            "tokens": len(tokens),
            "factual": sum(factual),
            "windows": len(source),
        }
    assert packed.tokenizer.definition == tokenizer.definition


@pytest.mark.parametrize("window", [8, 37, 10_000])
def test_any_window_length(tmp_path: Path, tokenizer: Tokenizer, window: int) -> None:
    packed = open_packed(pack_all(tmp_path, tokenizer, window=window))
    assert joined(packed.train) == naive_stream(tokenizer, "train")


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_full_last_window_is_not_followed_by_an_empty_one(tmp_path: Path, tokenizer: Tokenizer, extra: int) -> None:
    tokens, factual = naive_stream(tokenizer, "train")
    window = (len(tokens) - 1 + extra) // 2 if (len(tokens) - 1 + extra) % 2 == 0 else len(tokens) - 1 + extra
    packed = open_packed(pack_all(tmp_path, tokenizer, window=window))
    assert joined(packed.train) == (tokens, factual)
    assert all(packed.train[index]["length"] >= 2 for index in range(len(packed.train)))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for run in ("a", "b"):
        pack_all(tmp_path / run, tokenizer, documents=annotate(tmp_path / run))
    first, second = files(tmp_path / "a"), files(tmp_path / "b")
    assert first.keys() == second.keys()
    records = [name for name in first if "array_record" in name]
    assert len(records) == 3
    assert all(first[name] == second[name] for name in records)


def test_many_shards_hold_the_same_windows(tmp_path: Path, tokenizer: Tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(pack, "_SHARD_TOKENS", 100)
    monkeypatch.setattr(datasets, "_SHARD_CHARACTERS", 500)
    source = annotate(tmp_path)
    assert [document for document, _ in source] == [document for document, _ in DOCUMENTS]
    directory = pack_all(tmp_path, tokenizer, documents=source)
    packed = open_packed(directory)
    assert len(list(directory.glob("packed-train.array_record-*"))) > 5
    assert joined(packed.train) == naive_stream(tokenizer, "train")
    assert joined(packed.validation) == naive_stream(tokenizer, "validation")


def test_ids_are_stored_small_where_they_fit(tmp_path: Path, tokenizer: Tokenizer, monkeypatch) -> None:
    small = pack_all(tmp_path / "small", tokenizer)
    monkeypatch.setattr(tokenizer, "vocab_size", 2**16 + 1)
    large = pack_all(tmp_path / "large", tokenizer)
    stored = [json.loads((directory / "features.json").read_text()) for directory in (small, large)]
    dtypes = [each["featuresDict"]["features"]["tokens"]["tensor"]["dtype"] for each in stored]
    assert dtypes == ["uint16", "int32"]
    assert joined(open_packed(small).train) == joined(open_packed(large).train)


def test_an_empty_split_is_one_error_and_leaves_nothing(tmp_path: Path, tokenizer: Tokenizer) -> None:
    training = [item for item in DOCUMENTS if split_of(item[0].id, validation_share=SHARE) == "train"]
    with pytest.raises(DataError, match=r"none of the \d+ documents belongs to the validation split"):
        pack_all(tmp_path, tokenizer, documents=training)
    assert not files(tmp_path)


def test_another_fingerprint_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    directory = pack_all(tmp_path, tokenizer)
    own = fingerprint_of(tokenizer)
    assert open_packed(directory, expected=own).fingerprint == own
    assert open_packed(directory, expected={"window": WINDOW}).fingerprint == own
    with pytest.raises(DataError) as error:
        open_packed(directory, expected={"window": 32, "rule": {"kinds": "y", "sub_tokens": "all"}, "corpus": "c"})
    message = str(error.value)
    assert "window: expected 32, found 16" in message
    assert "rule.kinds: expected 'y', found 'x'" in message
    assert "corpus: expected 'c', found None" in message
    assert "sub_tokens" not in message


def test_another_tokenizer_in_the_folder_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    directory = pack_all(tmp_path, tokenizer)
    other = train_tokenizer([document.text for document, _ in DOCUMENTS], vocab_size=350)
    (directory / "tokenizer.model").write_bytes(other)
    write_checksums(directory)
    with pytest.raises(DataError, match=r"tokenizer\.model: expected"):
        open_packed(directory)


def test_what_is_no_packed_dataset_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    annotate(tmp_path)
    packed = pack_all(tmp_path, tokenizer)
    wrong = [
        tmp_path,
        tmp_path / "nothing",
        packed.parent,
        datasets.dataset_directory(tmp_path, "annotated", name="test-0"),
    ]
    for directory in wrong:
        with pytest.raises(DataError, match=r"is (no complete packed dataset|a dataset of the kind annotated)"):
            open_packed(directory)


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("place", ["record", "feature", "inner", "other name"])
def test_classes_that_a_dataset_names_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, place: str
) -> None:
    source = annotate(tmp_path)
    directory = datasets.dataset_directory(tmp_path, "annotated", name="test-0")
    mark = tmp_path / "imported"
    module = f"evil_{file[:4]}_{place[:5]}"
    (tmp_path / f"{module}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    features = json.loads((directory / "features.json").read_text())
    evil = {"pythonClassName": f"{module}.Thing"}
    inside = features["featuresDict"]["features"]
    if place == "record":
        features |= evil
    elif place == "feature":
        inside["starts"] |= evil
    elif place == "inner":
        inside["kinds"]["sequence"]["feature"] |= evil
    else:  # protobuf reads this name of the field, too
        inside["more"] = {"python_class_name": f"{module}.Thing", "text": {}}
    content = features
    if file == "dataset_info.json":
        content = json.loads((directory / file).read_text()) | {"features": features}
    (directory / file).write_text(json.dumps(content))
    write_checksums(directory)  # as whoever crafts a file does
    if file == "dataset_info.json" or place == "inner":  # what is stored there is not used
        assert [document for document, _ in AnnotatedSource(directory)] == [document for document, _ in source]
    else:
        with pytest.raises(DataError) as error:
            AnnotatedSource(directory)
        assert str(directory) in str(error.value)
        assert "\n" not in str(error.value)
    assert not mark.exists()
    # The crafted file is one: TFDS itself imports what it names.
    with contextlib.suppress(Exception):
        tfds.builder_from_directory(directory)
    assert mark.exists()


def test_progress_counts_every_window(tmp_path: Path, tokenizer: Tokenizer, capfd) -> None:
    calls: list[tuple] = []
    packed = open_packed(pack_all(tmp_path, tokenizer, progress=lambda *call: calls.append(call)))
    total = len(packed.train) + len(packed.validation)
    assert calls == [("write windows", done, total) for done in range(1, total + 1)]
    assert capfd.readouterr() == ("", "")  # TFDS is silent


def with_losses(document: Document, spans: Spans, *, rng: np.random.Generator) -> tuple[Document, Spans]:
    """A model's tokens end anywhere, some of them together."""
    length = len(full_text(document))
    ends = np.sort(np.append(rng.integers(1, length + 1, length // 3), [length, length])).astype(np.int32)
    return document, dataclasses.replace(spans, losses=Losses(ends, rng.exponential(size=len(ends)).astype(np.float32)))


def test_a_partners_losses_are_kept_and_shared_out_to_tokens(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    documents = [with_losses(*each, rng=rng) for each in DOCUMENTS]
    source = annotate(tmp_path, documents)
    assert source.has_losses
    for (_, spans), (_, found) in zip(documents, source, strict=True):
        assert found.losses.ends.tolist() == spans.losses.ends.tolist()
        assert found.losses.nats.tolist() == spans.losses.nats.tolist()
    packed = open_packed(pack_all(tmp_path, tokenizer, documents=source), partner_losses="stored")
    for split, windows in (("train", packed.train), ("validation", packed.validation)):
        expected = [np.nan]
        for document, spans in documents:
            if split_of(document.id, validation_share=SHARE) == split:
                expected += [*shared_out(spans.losses, tokenizer.encode(full_text(document)).ends), np.nan]
        records = [windows[index] for index in range(len(windows))]
        found = np.concatenate([each["partner_losses"][:WINDOW] for each in records])[: len(expected)]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)  # kept in 16 bits
        assert all(np.isnan(each["partner_losses"][each["length"] :]).all() for each in records)


def shared_out(losses: Losses, ends: np.ndarray) -> list[float]:
    """Character by character: each has an even share of the tokens that end next, and goes evenly to its tokens."""
    paid: dict[int, float] = {}
    for end, nats in zip(losses.ends.tolist(), losses.nats.tolist(), strict=True):
        paid[end] = paid.get(end, 0.0) + nats
    characters, start = [], 0
    for end, nats in sorted(paid.items()):
        characters += [nats / (end - start)] * (end - start)
        start = end
    begins = {end: start for start, end in itertools.pairwise([0, *sorted(set(ends.tolist()))])}
    together = collections.Counter(ends.tolist())
    return [sum(characters[begins[end] : end]) / together[end] for end in ends.tolist()]


def test_the_losses_of_a_character_spelt_in_bytes_and_after_the_last() -> None:
    losses = Losses(np.array([1, 2, 2], np.int32), np.array([6, 1, 2], np.float32))
    found = losses_of_tokens(losses, np.array([1, 1, 1, 2, 4]))
    np.testing.assert_array_equal(found, np.array([2, 2, 2, 3, np.nan], np.float32))
    none = Losses(np.array([], np.int32), np.array([], np.float32))
    assert np.isnan(losses_of_tokens(none, np.array([1, 3]))).all()
    assert len(losses_of_tokens(losses, np.array([], np.int32))) == 0


def test_losses_that_are_not_there_are_missed_in_one_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    directory = pack_all(tmp_path, tokenizer)
    with pytest.raises(
        DataError, match=r"^config.objective.partner_losses=stored: .* has no losses of a partner; mark"
    ):
        open_packed(directory, partner_losses="stored")
    assert "partner_losses" not in open_packed(directory).train[0]
