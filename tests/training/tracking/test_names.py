"""docs/tracking.md names every number that a run writes, and no other."""

import re
from pathlib import Path

from lacy_jax.training.goodput import KINDS
from lacy_jax.training.metrics import BUDGETS, CLASSES, QUANTILES, read_metrics

PAGE = Path(__file__).parents[3] / "docs" / "tracking.md"
VALUES = {
    "CLASS": CLASSES,
    "NN": [f"{round(100 * quantile):02d}" for quantile in QUANTILES],
    "POSITIVE": ("factual", "greedy_wrong", "factual_and_wrong"),
    "BUDGET": [f"{budget:g}" for budget in BUDGETS],
    "KIND": KINDS,
}
RARE = {"mfu", "batch", "skipped", "spike"}  # a known device, a remarkable step


def documented() -> set[str]:
    """`split/name` of each row, its words in capitals replaced by what they stand for."""
    found = set()
    table = PAGE.read_text().partition("## All numbers")[2]
    for splits, names, _ in re.findall(r"^\| ([a-z, ]+) \| (`.*`) \| (.*) \|$", table, flags=re.M):
        for split in splits.split(", "):
            found |= {f"{split}/{name}" for each in re.findall("`(.*?)`", names) for name in expanded(each)}
    return found


def expanded(name: str) -> set[str]:
    word = next((word for word in VALUES if word in name), None)
    if word is None:
        return {name}
    return {each for value in VALUES[word] for each in expanded(name.replace(word, value))}


def test_the_page_names_every_number_of_a_run(small_run: Path) -> None:
    written = {
        f"{record['split']}/{name}"
        for record in read_metrics(str(small_run))
        for name in record.keys() - {"step", "split"}
    }
    assert written <= documented()
    unwritten = {name for name in documented() - written if not name.startswith("questions/")}  # it answers none
    assert unwritten <= {f"train/{name}" for name in RARE}
