"""Whether texts look like a language: by their script, and by how many of their words are common words of it.

Both are read off spaCy's list of stop words of the language, so every language that has such a list can be judged.
"""

import collections
import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

# Shares of a text, measured on encyclopedias, books and code (docs/languages.md).
LEAST_COMMON = 0.2  # words that are common words of the language
LEAST_IN_SCRIPT = 0.2  # letters in a script of the language
_FEW = 30  # words, and letters: of a shorter text nothing is said
_WORD = re.compile(r"\w\w+")  # not one letter alone: i, j and n are words of code
_UNSPACED = ("bo", "ja", "km", "lo", "my", "th", "zh")  # their words cannot be found so: the script alone is judged


@dataclass(frozen=True)
class Looks:
    """What a text looks like, for one language: the shares above; `common` is None where words cannot be judged."""

    in_script: float
    common: float | None

    def __bool__(self) -> bool:
        """Whether it may be a text in that language."""
        return self.in_script >= LEAST_IN_SCRIPT and (self.common is None or self.common >= LEAST_COMMON)


def looks(text: str, language: str) -> Looks | None:
    """How much a text looks like a language (spaCy's code); None for a short text, or a language without a list."""
    common, scripts = _common_words(language), _scripts(language)
    words = _WORD.findall(text.lower())
    letters = [letter for letter in text if letter.isalpha()]
    if not common or len(letters) < _FEW:
        return None
    in_script = sum(_script(letter) in scripts for letter in letters) / len(letters)
    if language in _UNSPACED or (len(words) < _FEW and in_script < LEAST_IN_SCRIPT):
        return Looks(in_script, None)
    return Looks(in_script, sum(word in common for word in words) / len(words)) if len(words) >= _FEW else None


def unlike(texts: Sequence[str], language: str) -> float:
    """The share of the texts, of those that can be judged, that do not look like a language; 0 where there are none."""
    found = [each for each in (looks(text, language) for text in texts) if each is not None]
    return sum(not each for each in found) / len(found) if found else 0.0


@functools.cache
def _common_words(language: str) -> frozenset[str]:
    import spacy

    try:
        return frozenset(spacy.util.get_lang_class(language).Defaults.stop_words)
    except ImportError:  # spaCy's own error for a code that it does not know
        return frozenset()


@functools.cache
def _scripts(language: str) -> frozenset[str]:
    """Those of at least a tenth of the letters of its common words."""
    counts = collections.Counter(_script(each) for word in _common_words(language) for each in word if each.isalpha())
    return frozenset(script for script, count in counts.items() if count * 10 >= counts.total())


@functools.lru_cache(2**16)
def _script(letter: str) -> str:
    """LATIN, CYRILLIC, HIRAGANA, CJK ...: how the names of its letters begin."""
    return unicodedata.name(letter, "").partition(" ")[0]
