"""Kinds of facts in few groups, each with a colour; what a legend says."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from lacy_jax.evidence.inspector.pieces import LEFT_OUT, Counts, Mark, View

Group = Literal["person", "place", "group", "time", "number", "work", "name", "other"]

# The labels of spaCy's models in all languages. A label that is not here, of a spans file perhaps, is "other".
_GROUPS: dict[Group, tuple[str, ...]] = {
    "person": ("PERSON", "PER", "persName", "PRS"),
    "place": ("GPE", "LOC", "FAC", "FACILITY", "LOCATION", "placeName", "geogName"),
    "group": ("ORG", "ORGANIZATION", "NORP", "orgName"),
    "time": ("DATE", "TIME", "DATETIME", "PERIOD", "date", "time"),
    "number": ("NUM", "CARDINAL", "ORDINAL", "MONEY", "PERCENT", "QUANTITY", "NUMERIC_VALUE"),
    "work": ("WORK_OF_ART", "EVENT", "PRODUCT", "LAW", "LANGUAGE", "MISC", "MOVEMENT", "PET_NAME", "PHONE"),
    "name": ("PROPN",),
}
_GROUP_OF = {kind: group for group, kinds in _GROUPS.items() for kind in kinds}
SAID: dict[Mark, str] = {
    "subject": "part of a subject",
    "repeated": "said before",
    "kind": "kind that the rule leaves out",
    "context": "read, not a target",
}


@dataclass(frozen=True)
class Entry:
    """A line of a legend: `count` words or tokens have the mark and the kind, which is "" where kinds are not known."""

    mark: Mark
    kind: str
    count: int

    @property
    def text(self) -> str:
        """What it is called."""
        return SAID.get(self.mark, self.kind or "factual")


def group_of(kind: str) -> Group:
    """The group of a kind; of none (a packed window knows no kinds), "name"."""
    return _GROUP_OF.get(kind, "other") if kind else "name"


def legend(views: Iterable[View]) -> list[Entry]:
    """What stands in the views: factual kinds, the most frequent first, then what is left out and why."""
    return list(_entries(sum((view.counts for view in views), Counts())))


def _entries(counts: Counts) -> Iterator[Entry]:
    for (mark, kind), count in counts.most_common():
        if mark == "factual":
            yield Entry(mark, kind, count)
    for mark in LEFT_OUT:
        if count := sum(each for (other, _), each in counts.items() if other == mark):
            yield Entry(mark, "", count)
