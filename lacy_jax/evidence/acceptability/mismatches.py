"""Which of a model's wrong tokens would have done as well (section 3 of the paper): a judge says so for each mismatch.

Held-out text is read, nothing is written. Where the model's most likely token is not the next one, a judge is shown
the text so far, how it goes on, and the model's token. How well loss, factual flag and their product tell what is
not acceptable is the reason for LaCy's rule: loss finds mismatches, facts find those that matter.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import factual_tokens
from lacy_jax.errors import DataError
from lacy_jax.evidence.judge import Judge, Progress
from lacy_jax.measures.intervals import Interval, bootstrap_area
from lacy_jax.model import decoder

Verdict = Literal["acceptable", "unacceptable", "unclear", "unanswered"]
ROWS = 8
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
    tokenizer, context = slm.tokenizer, slm.model.context

    @jax.jit
    def read(params: decoder.Params, tokens_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden_BTD = decoder.forward(params, tokens_BT[:, :-1], config=slm.model).astype(jnp.float32)
        logits_BTV = hidden_BTD @ decoder.output_matrix(params).astype(jnp.float32).T
        log_p = jax.nn.log_softmax(logits_BTV[..., : tokenizer.call_id])
        nll = -jnp.take_along_axis(log_p, tokens_BT[:, 1:, None], axis=-1)[..., 0]
        return nll, log_p.argmax(axis=-1)

    targets: list[Target] = []
    for first in range(0, len(documents), ROWS):
        group = documents[first : first + ROWS]
        encodings = [tokenizer.encode(full_text(document)) for document, _ in group]
        tokens_BT = np.full((ROWS, context + 1), tokenizer.end_id, np.int32)
        tokens_BT[:, 0] = tokenizer.start_id
        for row, encoding in enumerate(encodings):
            ids = encoding.ids[:context]
            tokens_BT[row, 1 : 1 + len(ids)] = ids
        nll_BT, best_BT = (np.asarray(each) for each in read(slm.params, tokens_BT))
        for row, ((document, spans), encoding) in enumerate(zip(group, encodings, strict=True)):
            text, length = full_text(document), min(len(encoding.ids), context)
            starts, ends = encoding.starts[:length], encoding.ends[:length]
            flags = factual_tokens(starts, ends, text=text, spans=spans, sub_tokens="all")
            for at in range(length):
                said = said_by(slm, int(best_BT[row, at]))
                start, end = int(starts[at]), int(ends[at])
                inside = start == end or (at > 0 and start < ends[at - 1]) or (at + 1 < length and end > starts[at + 1])
                if inside or "\ufffd" in said:
                    continue
                targets.append(
                    Target(
                        document=first + row,
                        before=text[max(0, start - BEFORE) : start],
                        after=text[start : start + AFTER],
                        token=text[start:end],
                        said=said,
                        loss=float(nll_BT[row, at]),
                        factual=bool(flags[at]),
                        mismatch=int(best_BT[row, at]) != int(encoding.ids[at]),
                    )
                )
    if not targets:
        raise DataError("no held-out document has a token to judge")
    return targets


def said_by(slm: LoadedModel, token: int) -> str:
    """A token as text, for the judge."""
    if token == slm.tokenizer.end_id:
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


def predict(targets: Sequence[Target], mismatches: Sequence[Target], verdicts: Sequence[Verdict]) -> Predicted:
    """How well each predictor tells a mismatch among all targets, and an unacceptable one among the judged."""
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
