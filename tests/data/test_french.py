"""Another language from text to text: French Wikipedia, marked by the French model, trained on, and written."""

import dataclasses
from pathlib import Path

import pytest

import lacy_jax
from lacy_jax.cascade import Cascade
from lacy_jax.checks import parse
from lacy_jax.config import Config, CorpusConfig, DataConfig
from lacy_jax.config_dict import config_to_dict
from lacy_jax.data.datasets import AnnotatedSource
from lacy_jax.data.documents import full_text, text_offset
from lacy_jax.data.marks import describe_marks, doubts
from lacy_jax.data.prepare import prepare

pytestmark = pytest.mark.slow
spacy = pytest.importorskip("spacy")
pytest.importorskip("fr_core_news_sm")


def french(small_config: Config, tmp_path: Path) -> Config:
    corpus = CorpusConfig(language="fr", max_documents=150, validation_share=0.1)
    config = dataclasses.replace(
        small_config, name="french", corpus=corpus, data=DataConfig(directory=str(tmp_path / "data"), batch_size=8)
    )
    return parse(config_to_dict(config))


def words_of_subjects(nlp, text: str) -> dict[tuple[int, int], bool]:
    """Each candidate word, by hand in Universal Dependencies, and whether it is part of a subject."""
    found = {}
    for word in nlp(text):
        top = word
        while top.dep_.split(":")[0] in {
            "compound",
            "amod",
            "nummod",
            "appos",
            "det",
            "case",
            "punct",
            "flat",
            "fixed",
        }:
            top = top.head
        if (word.ent_type_ or word.pos_ in ("PROPN", "NUM")) and not word.is_space:
            subject = top.dep_.split(":")[0] in {"nsubj", "csubj"} or top.dep_ == "nmod:poss"
            found[word.idx, word.idx + len(word.text)] = subject
    return found


def test_french_from_its_articles_to_a_text(small_config: Config, tmp_path: Path) -> None:
    config = french(small_config, tmp_path)
    assert config.annotate.spacy_model == "fr_core_news_sm"
    prepared = prepare(config)
    assert prepared.fingerprint["annotator"] | {"version": ""} == {
        "annotator": "spacy", "model": "fr_core_news_sm", "version": "", "algorithm": 1, "labels": "universal",
    }  # fmt: skip
    assert list(doubts(prepared, config.annotate)) == []  # it has all parts, and the text looks French
    assert describe_marks(prepared).startswith("fr_core_news_sm 3.8.0: ")

    nlp, parts_of_subjects = spacy.load("fr_core_news_sm"), 0
    for document, spans in AnnotatedSource(prepared.annotated_directory):
        offset = text_offset(document)
        found = {
            (int(start) - offset, int(end) - offset): bool(subject)
            for start, end, subject in zip(spans.starts, spans.ends, spans.subject, strict=True)
        }
        assert found == words_of_subjects(nlp, document.text), document.id
        parts_of_subjects += sum(found.values())
        assert prepared.tokenizer.decode(prepared.tokenizer.encode(full_text(document)).ids.tolist()) == full_text(
            document
        )
    assert parts_of_subjects > 100
    train = prepared.packed.statistics["train"]
    assert 0.05 < train["factual"] / train["tokens"] < 0.5

    slm = lacy_jax.train(config, workdir=str(tmp_path / "run"), say="nothing")
    assert slm.step == config.training.steps
    cascade = Cascade(slm, "documents", directory=str(tmp_path / "index"), budget=0.5)
    document = next(iter(prepared.documents()))
    (written,) = cascade.generate([full_text(document)[:60]], max_new_tokens=12)
    assert written.counts.delegated > 0
    assert "".join(piece.text for piece in written.pieces).strip()
