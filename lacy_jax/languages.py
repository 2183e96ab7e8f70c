"""The language of a corpus, and the spaCy model that is usual for it (docs/languages.md)."""

import dataclasses
import re
from collections.abc import Iterator

from lacy_jax.config import Config, CorpusConfig
from lacy_jax.presets import CLOSED_WORLD

_NEWS = (
    *("ca", "da", "de", "el", "es", "fi", "fr", "hr", "it", "ja", "ko", "lt"),
    *("mk", "nb", "nl", "pl", "pt", "ro", "ru", "sl", "sv", "uk"),
)
# Code -> the smallest model that spaCy publishes. English has two names here, which the annotator knows.
MODELS = {"en": "", "zh": "zh_core_web_sm", "xx": "xx_ent_wiki_sm"} | {code: f"{code}_core_news_sm" for code in _NEWS}
_WIKIPEDIA = re.compile(r"wikipedia/\d+\.([a-z_-]+)")
_WIKIPEDIAS = {"simple": "en", "no": "nb"}  # whose names are no codes of spaCy's


def language_of(corpus: CorpusConfig) -> str:
    """The code of a corpus' language: as the settings say, or as the name of a Wikipedia does, else ""."""
    if corpus.language or corpus.name != "tfds":
        return corpus.language
    found = _WIKIPEDIA.match(corpus.tfds_name)
    return _WIKIPEDIAS.get(found[1], found[1]) if found else ""


def language_problems(config: Config) -> Iterator[str]:
    """One line if there is no usual model for the corpus' language, or if the corpus is in another language."""
    corpus, language = config.corpus, language_of(config.corpus)
    if corpus.name in CLOSED_WORLD and language not in ("", "en"):
        yield f"config.corpus.language: got {language!r}, but the corpus {corpus.name} is English (en)"
    elif language and language not in MODELS and _asks_for_model(config):
        yield (
            f"config.corpus.language: spaCy has no usual model for the language {language!r} (known are "
            f"{', '.join(sorted(MODELS))}); name one with --config.annotate.spacy_model=..., for example "
            "xx_ent_wiki_sm, which finds named entities alone"
        )


def with_usual_model(config: Config) -> Config:
    """The settings with the usual model of the corpus' language, where they name no model."""
    model = MODELS.get(language_of(config.corpus), "")
    if not model or not _asks_for_model(config):
        return config
    return dataclasses.replace(config, annotate=dataclasses.replace(config.annotate, spacy_model=model))


def _asks_for_model(config: Config) -> bool:
    marks = not (config.data.packed or config.data.mixture)
    return marks and config.annotate.annotator == "spacy" and not config.annotate.spacy_model
