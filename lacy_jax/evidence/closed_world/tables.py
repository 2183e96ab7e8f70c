"""What an evaluation of the closed world found, as tables in Markdown."""

from lacy_jax.evidence.closed_world.kept import MAIN_BUDGET, Evaluation
from lacy_jax.evidence.closed_world.scores import SCORES, score
from lacy_jax.evidence.suites import share_text
from lacy_jax.measures.intervals import Interval, shown

_PRINTED = ("strict", "precision", "right", "factscore", "unparsed", "rate", "on_facts", "unanswered")
_TOKENS_PRINTED = {
    "nll_factual": "NLL of facts",
    "nll_other": "of other tokens",
    "area_both": "ROC area of the score, for facts that are wrong alone",
    "precision": f"precision at {MAIN_BUDGET:.0%}",
    "recall": "recall",
}


def suite_table(found: Evaluation) -> list[str]:
    """Markdown: one line per decode and budget, each score with its bootstrap interval over people.

    What follows changed facts is a column where texts have outdated ones.
    """
    changed = any(each.outdated for people in found.judged.values() for each in people)
    printed = (*_PRINTED, "followed") if changed else _PRINTED
    lines = [
        "| decode | budget | " + " | ".join(SCORES[name].title for name in printed) + " |",
        "|---|---|" + "---|" * len(printed),
    ]
    for (decode, budget), people in found.judged.items():
        cells = []
        for name in printed:
            percent = SCORES[name].percent
            cells.append(shown(score(name, people), digits=1, scale=100 if percent else 1, unit="%" if percent else ""))
        lines.append(f"| {decode} | {share_text(budget)} | " + " | ".join(cells) + " |")
    return lines


def token_table(found: Evaluation) -> list[str]:
    """Markdown: one line per score of tokens of held-out biographies, with bootstrap intervals over biographies."""
    lines = [
        "| tokens of held-out biographies, ranked by | " + " | ".join(_TOKENS_PRINTED.values()) + " |",
        "|---|" + "---|" * len(_TOKENS_PRINTED),
    ]
    for name, values in found.tokens["intervals"].items():
        cells = [shown(Interval(*values[each])) for each in _TOKENS_PRINTED]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines
