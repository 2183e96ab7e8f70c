"""Which of a model's wrong tokens would have done as well (section 3 of the paper): a judge says so for each mismatch.

Held-out text is read, nothing is written. Where the model's most likely token is not the next one, a judge is shown
the text so far, how it goes on, and the model's token. How well loss, factual flag and their product show what is
not acceptable is the reason for LaCy's rule: loss finds mismatches, facts find those that matter.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.data.documents import Document, Spans
from lacy_jax.errors import DataError
from lacy_jax.evidence.judge import Judge, Progress
from lacy_jax.evidence.reading import Reading, read_documents
from lacy_jax.measures.intervals import Interval, bootstrap_area

Verdict = Literal["acceptable", "unacceptable", "unclear", "unanswered"]
BEFORE, AFTER = 600, 60  # characters of the text that the judge sees around a mismatch
VERDICT_TOKENS = 8
_FIRST_WORD = re.compile(r"\W*(\w+)")
PREDICTORS = ("loss", "factual", "loss x factual")


@dataclass(frozen=True)
class Target:
    """A next token of held-out text. `loss` in nats, without `<CALL>`; `said` is the model's most likely token.

    document: which text it is of. before, after: the text up to the token, and from it on, cut to what a judge needs.
    token: the token itself, with which `after` begins.
    """

    document: int
    before: str
    after: str
    token: str
    said: str
    loss: float
    factual: bool
    mismatch: bool


@dataclass(frozen=True)
class Predicted:
    """Areas under the ROC curve, each with its bootstrap interval over documents; NaN where one class is empty."""

    mismatch: Mapping[str, Interval]
    unacceptable: Mapping[str, Interval]


def read_targets(slm: LoadedModel, documents: Sequence[tuple[Document, Spans]]) -> list[Target]:
    """Every target of the documents, each read from its beginning to the model's context at most.

    Tokens that are a part of a character are left out: nobody could judge them.

    Args:
        documents: with their selected spans (`Prepared.validation_documents`).

    Raises:
        DataError: no document has a target.
    """
    targets = [
        target
        for index, reading in enumerate(read_documents(slm, documents))
        for target in _targets_of(reading, slm=slm, document=index)
    ]
    if not targets:
        raise DataError("no held-out document has a token to judge")
    return targets


def _targets_of(reading: Reading, *, slm: LoadedModel, document: int) -> Iterator[Target]:
    text, starts, ends, factual, wrong = reading.text, reading.starts, reading.ends, reading.factual, reading.wrong
    for at, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        said = said_by(slm, int(reading.said.best[at]))
        inside = start == end or (at > 0 and start < ends[at - 1]) or (at + 1 < len(ends) and end > starts[at + 1])
        if inside or "\ufffd" in said:
            continue
        yield Target(
            document=document,
            before=text[max(0, start - BEFORE) : start],
            after=text[start : start + AFTER],
            token=text[start:end],
            said=said,
            loss=float(reading.said.nll[at]),
            factual=bool(factual[at]),
            mismatch=bool(wrong[at]),
        )


def said_by(slm: LoadedModel, token: int) -> str:
    """A token as text, for the judge."""
    if token in slm.tokenizer.end_ids:
        return "(the end of the text)"
    return slm.tokenizer.decode_bytes([token]).decode("utf-8", "replace")


def draw_mismatches(targets: Sequence[Target], *, count: int, seed: int = 0) -> list[Target]:
    """`count` mismatches at random, in the order of the text; all where there are fewer."""
    wrong = [target for target in targets if target.mismatch]
    chosen = np.random.default_rng(seed).permutation(len(wrong))[:count]
    return [wrong[index] for index in sorted(chosen)]


def question(target: Target) -> str:
    """Asks whether the model's token would have done as well."""
    return (
        "A text goes on in one way, a model proposes the beginning of another. Judge the proposal.\n\n"
        f"Text so far: {target.before!r}\nIt goes on with: {target.after!r}\nThe model proposes: {target.said!r}\n\n"
        "Is the proposal acceptable: could the text go on with it in correct language, without stating a fact that "
        "differs from the one in the text? Another wording, another word order, or the beginning of a word that fits "
        "is acceptable. Another name, date, number or other fact is not. Answer with one word, Yes or No.\nAnswer:"
    )


def verdict_of(answer: str | None) -> Verdict:
    """What an answer says; by its first word."""
    if answer is None:
        return "unanswered"
    first = _FIRST_WORD.match(answer)
    word = first[1].lower() if first else ""
    return "acceptable" if word == "yes" else "unacceptable" if word == "no" else "unclear"


def judge_mismatches(
    judge: Judge, mismatches: Sequence[Target], *, progress: Progress = lambda _answered, _asked: None
) -> list[Verdict]:
    """The judge's verdict on each."""
    answers = judge.ask([question(each) for each in mismatches], max_tokens=VERDICT_TOKENS, progress=progress)
    return [verdict_of(answer) for answer in answers]


def predict(targets: Sequence[Target], *, mismatches: Sequence[Target], verdicts: Sequence[Verdict]) -> Predicted:
    """How well each predictor finds a mismatch among all targets, and an unacceptable one among the judged."""
    judged = [(each, v) for each, v in zip(mismatches, verdicts, strict=True) if v in ("acceptable", "unacceptable")]
    wrong = np.array([target.mismatch for target in targets])
    bad = np.array([verdict == "unacceptable" for _, verdict in judged], bool)
    own = [each for each, _ in judged]
    return Predicted(
        {name: bootstrap_area(values_of(name, targets), wrong, groups_of(targets)) for name in PREDICTORS},
        {name: bootstrap_area(values_of(name, own), bad, groups_of(own)) for name in PREDICTORS},
    )


def values_of(name: str, targets: Sequence[Target]) -> np.ndarray:
    """float64[N]: the predictor of that name."""
    loss = np.array([target.loss for target in targets], np.float64)
    factual = np.array([target.factual for target in targets], np.float64)
    return {"loss": loss, "factual": factual, "loss x factual": loss * factual}[name]


def groups_of(targets: Sequence[Target]) -> np.ndarray:
    """int[N]: the document of each."""
    return np.array([target.document for target in targets], np.int64)
