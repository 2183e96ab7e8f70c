"""Real text: what a cascade writes about people of Wikipedia, checked against their articles.

Each prompt is the title and the first words of an article of the embedded corpus. The names, dates and numbers of the
text that follows are claims; one that the article contains counts as supported. It is a cheap proxy, with its
error rate measured by hand in docs/real_text.md.

With the partner "documents" the partner searches all articles of the corpus, the person's own among them: it knows
what the SLM cannot, and the score says whether the SLM asks at the right places.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lacy_jax.cascade import Cascade, Completion, Counts, Request
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import CascadeConfig
from lacy_jax.data.corpus import corpus_of_checkpoint
from lacy_jax.data.documents import Document, full_text
from lacy_jax.data.files import write_whole
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.real_text.claims import Claim, find_claims, is_contained
from lacy_jax.evidence.real_text.people import Seen, Subject, find_people
from lacy_jax.evidence.run_report.samples import PROMPT_WORDS, prompt_of
from lacy_jax.evidence.suites import Progress, Settings, share_text
from lacy_jax.measures.intervals import Interval, bootstrap_interval, shown

FLAGS = ("people", "budgets", "partner")


@dataclass(frozen=True)
class CheckedClaim:
    """A claim in `prompt + text`; `delegated`: the partner wrote some of it."""

    start: int
    end: int
    text: str
    kind: str
    supported: bool
    delegated: bool


@dataclass(frozen=True)
class TextRecord:
    """What the cascade wrote about one subject. Every field is a plain value: `dataclasses.asdict` is JSON.

    generated, delegated: SLM tokens. partner_pieces: answers of the partner; pieces_in_claims: those of them that
    wrote some of a claim.
    """

    id: str
    title: str
    split: Seen
    prompt: str
    text: str
    finish: str
    claims: tuple[CheckedClaim, ...]
    generated: int
    delegated: int
    calls: int
    fallbacks: int
    partner_pieces: int
    pieces_in_claims: int


@dataclass(frozen=True)
class RealTextScores:
    """Each with its 95% bootstrap interval over people; NaN where there is nothing to count.

    precision: supported claims / claims; own_precision: of those that the SLM wrote alone.
    claims, supported_claims: per text.
    call_share: delegated tokens / generated tokens.
    delegated_in_claims: answers of the partner that wrote some of a claim / answers.
    """

    precision: Interval
    own_precision: Interval
    claims: Interval
    supported_claims: Interval
    call_share: Interval
    delegated_in_claims: Interval


@dataclass(frozen=True)
class ProxyCheck:
    """How the proxy judges true text: the articles' own claims, with 95% bootstrap intervals over people.

    own: share that counts as supported by the article that they come from; 1 if the proxy missed nothing.
    other: ... by the next person's article: support by luck.
    """

    own: Interval
    other: Interval


@dataclass(frozen=True)
class RealTextResult:
    """Scores, and the records that they were counted from, in the order of the people."""

    partner: str
    budget: float
    scores: RealTextScores
    records: tuple[TextRecord, ...]


def run(slm: LoadedModel, settings: Settings, *, out: Path, progress: Progress) -> list[str]:
    """Markdown: one line per budget, each score with its bootstrap interval over people; the records lie in `out`.

    Raises:
        ConfigError, PartnerError, DataError, CheckpointError: see `find_people` and `evaluate_real_text`.
    """
    budgets = parse_budgets(settings.budgets)
    corpus = corpus_of_checkpoint(slm.config.corpus, data=slm.data, directory=slm.config.data.directory)
    people = find_people(corpus, count=settings.people)
    lines: list[str] = []
    for budget in budgets:
        found = evaluate_real_text(
            slm,
            partner=settings.partner,
            budget=budget,
            people=people,
            progress=functools.partial(progress, f"budget {share_text(budget)}"),
        )
        records = "".join(f"{json.dumps(dataclasses.asdict(record), ensure_ascii=False)}\n" for record in found.records)
        write_whole(out / f"{share_text(budget)}.jsonl", records.encode())
        scores = vars(found.scores)
        if not lines:
            lines = [
                "| budget | " + " | ".join(name.replace("_", " ") for name in scores) + " |",
                "|---" * (len(scores) + 1) + "|",
            ]
        lines.append(f"| {share_text(budget)} | " + " | ".join(shown(value) for value in scores.values()) + " |")
    held_out = sum(person.split == "validation" for person in people)
    proxy = check_proxy(people)
    return [
        *lines,
        "",
        f"{len(people)} people, {held_out} of them held out. Of the articles' own claims {proxy.own.estimate:.3f} "
        f"count as supported, {proxy.other.estimate:.3f} by another person's article.",
    ]


def parse_budgets(text: str) -> list[float]:
    """Comma-separated shares. Raises `ConfigError` where one is none."""
    try:
        budgets = [float(each) for each in text.split(",")]
    except ValueError:
        budgets = [-1.0]
    if not all(0.0 <= budget <= 1.0 for budget in budgets):
        raise ConfigError(f"--budgets={text}: allowed are shares, 0 to 1, separated by commas")
    return budgets


def evaluate_real_text(
    slm: LoadedModel,
    *,
    partner: str,
    budget: float,
    people: Sequence[Subject],
    settings: CascadeConfig | None = None,
    directory: str = "",
    max_new_tokens: int = 64,
    batch_size: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> RealTextResult:
    """Lets the cascade write about `people`, greedily, and checks it against their articles.

    Args:
        slm: the model that writes.
        partner: a spec for `make_partner`; "documents" searches all of the SLM's corpus, "none" never calls.
        budget: share of tokens to delegate, 0 to 1.
        people: see `find_people`.
        settings: the cascade's other settings; None: the checkpoint's own.
        directory: where indexes of documents are kept; "": beside the data that the SLM was trained on.
        max_new_tokens: SLM tokens per text. A claim at the end of a text of this length may be cut; it is left out.
        batch_size: texts at once.
        seed: of the bootstrap.
        progress: called with (texts written, people).

    Raises:
        ConfigError, PartnerError, DataError, CheckpointError: see `Cascade` and `find_claims`.
    """
    cascade = Cascade(slm, partner, settings=settings, budget=budget, directory=directory, batch_size=batch_size)
    requests = [Request(prompt_of(person.document), max_new_tokens=max_new_tokens) for person in people]
    done: dict[int, Completion] = {}
    for index, completion in cascade.iterate(requests, batch_size=batch_size):
        done[index] = completion
        if progress:
            progress(len(done), len(people))
    records = check([(person, done[index]) for index, person in enumerate(people)])
    return RealTextResult(
        partner=partner,
        budget=budget,
        scores=score(records, seed=seed),
        records=records,
    )


def check_proxy(people: Sequence[Subject], *, seed: int = 0) -> ProxyCheck:
    """Checks what the articles themselves say after their prompts.

    Raises:
        DataError: spaCy or its model is missing.
    """
    continued = [_article_itself(person.document) for person in people]
    claims = _claims_of(continued)
    shifted = [*people[1:], *people[:1]]
    own, other = (
        [_record(person, text, claims=found) for person, text, found in zip(group, continued, claims, strict=True)]
        for group in (people, shifted)
    )
    return ProxyCheck(own=score(own, seed=seed).precision, other=score(other, seed=seed).precision)


def _article_itself(document: Document) -> Completion:
    """As if a model had gone on from the prompt with the article's own words."""
    rest = document.text.split(maxsplit=PROMPT_WORDS)[PROMPT_WORDS:]
    return Completion(prompt_of(document), "".join(f" {text}" for text in rest), (), Counts(), finish="end")


def check(written: Sequence[tuple[Subject, Completion]]) -> tuple[TextRecord, ...]:
    """The claims of what was written about each subject, compared with its article.

    Raises:
        DataError: spaCy or its model is missing.
    """
    claims = _claims_of([completion for _, completion in written])
    return tuple(_record(*pair, claims=found) for pair, found in zip(written, claims, strict=True))


def _claims_of(completions: Sequence[Completion]) -> list[list[Claim]]:
    texts = [completion.prompt + completion.text for completion in completions]
    return find_claims(texts, starts=[len(completion.prompt) for completion in completions])


def _record(subject: Subject, completion: Completion, *, claims: Sequence[Claim]) -> TextRecord:
    article, end = full_text(subject.document), len(completion.prompt) + len(completion.text)
    whole = [claim for claim in claims if claim.end < end or completion.finish != "length"]
    answers = _partner_pieces(completion)
    counts = completion.counts
    return TextRecord(
        id=subject.document.id,
        title=subject.document.title,
        split=subject.split,
        prompt=completion.prompt,
        text=completion.text,
        finish=completion.finish,
        claims=tuple(
            CheckedClaim(
                **dataclasses.asdict(claim),
                supported=is_contained(claim, article),
                delegated=any(_overlap(claim, answer) for answer in answers),
            )
            for claim in whole
        ),
        generated=counts.generated,
        delegated=counts.delegated,
        calls=counts.calls,
        fallbacks=counts.fallbacks,
        partner_pieces=len(answers),
        pieces_in_claims=sum(any(_overlap(claim, answer) for claim in claims) for answer in answers),
    )


def _partner_pieces(completion: Completion) -> list[tuple[int, int]]:
    """Where in `prompt + text` the partner wrote, white space around its pieces aside: (start, end) of each."""
    places, end = [], len(completion.prompt)
    for piece in completion.pieces:
        start, end = end, end + len(piece.text)
        if piece.source == "partner":
            blank = len(piece.text) - len(piece.text.lstrip())
            places.append((start + blank, start + len(piece.text.rstrip())))
    return places


def _overlap(claim: Claim, place: tuple[int, int]) -> bool:
    return claim.start < place[1] and place[0] < claim.end


def score(records: Sequence[TextRecord], *, seed: int = 0) -> RealTextScores:
    """What records add up to; `seed`: of the bootstrap."""
    claims = [len(record.claims) for record in records]
    supported = [sum(claim.supported for claim in record.claims) for record in records]
    own = [[claim.supported for claim in record.claims if not claim.delegated] for record in records]
    return RealTextScores(
        precision=bootstrap_interval(supported, claims, seed=seed),
        own_precision=bootstrap_interval([sum(each) for each in own], [len(each) for each in own], seed=seed),
        claims=bootstrap_interval(claims, seed=seed),
        supported_claims=bootstrap_interval(supported, seed=seed),
        call_share=bootstrap_interval(
            [each.delegated for each in records], [each.generated for each in records], seed=seed
        ),
        delegated_in_claims=bootstrap_interval(
            [each.pieces_in_claims for each in records], [each.partner_pieces for each in records], seed=seed
        ),
    )
