"""The cascade: an SLM writes, and where it calls, a partner writes instead.

Text is the truth, token ids are a cache of it: the partner is given text and gives text, so the two need
not share a tokenizer.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypedDict, Unpack

import jax
import numpy as np

from lacy_jax.cascade.budget import Budget
from lacy_jax.cascade.decoding.engine import Engine
from lacy_jax.cascade.partners import Partner, make_partner, searches_corpus
from lacy_jax.cascade.partners.guard import Guard
from lacy_jax.cascade.rows import Completion, Request
from lacy_jax.cascade.scheduler import Calling, Oracle, Scheduler
from lacy_jax.cascade.scores import CALL_SCORES, RankedBy, price_threshold
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.checks import change_cascade
from lacy_jax.config import Account, CascadeConfig, Gate, Policy, Score, ScoreSetting, Span
from lacy_jax.data.corpus import corpus_of_checkpoint
from lacy_jax.data.tokenizer import TextTokenizer, starting_with
from lacy_jax.errors import ConfigError
from lacy_jax.model import decoder


class Changes(TypedDict, total=False):
    """Settings of `CascadeConfig` that a cascade may have different from its checkpoint's; "oracle" asks `oracle`."""

    budget: float
    window: int
    policy: Policy
    price: float
    score: ScoreSetting | Literal["oracle"]
    gate: Gate
    start_token: str
    account: Account
    span: Span
    timeout: float
    max_new_tokens: int


class Cascade:
    """An SLM, a partner and a budget: `Cascade(load(path), "documents", budget=0.22).generate(["..."])`.

    settings: what it was opened with; `settings.partner` names the partner. checkpoint: the path of the SLM. chat: its
    chat template, if it has one.
    """

    def __init__(
        self,
        slm: LoadedModel,
        partner: Partner | str | None,
        *,
        settings: CascadeConfig | None = None,
        threshold: float | None = None,
        oracle: Oracle | None = None,
        directory: str = "",
        batch_size: int = 8,
        **changes: Unpack[Changes],
    ):
        """`partner=None` never calls, and so does `budget=0`; `budget=1` always calls.

        Args:
            slm: the model that writes; its checkpoint's `call_scores`, if any, start the running quantile.
            partner: who answers calls, or its spec for `make_partner`: "documents" are those the SLM was trained on.
                If it is an object, the setting `span` only describes it: unless "token", its words and numbers are
                whole, and the SLM does not continue them.
            settings: None: the checkpoint's own.
            threshold: calls wherever the score is above it, in place of a budget.
            oracle: (text so far, the SLM's own next token) -> whether to call, where the truth is known; it goes with
                `score="oracle"`.
            directory: where indexes of documents and facts are kept; "": beside the data that the SLM was trained on.
            batch_size: how many texts a partner that is a checkpoint works on at once.
            changes: single settings that differ. `score="auto"` is the call score of a model that was trained to call,
                and "uncertainty" of any other. With `account="shared"` only all rows together keep to the budget, and a
                row's text depends on the other rows.

        Raises:
            ConfigError: a value out of range, settings that do not go together, a score of `<CALL>` with a model that
                never learned it, or a start token that the tokenizer does not have.
            PartnerError, DataError, CheckpointError: a partner that cannot be made of its spec.
        """
        if (changes.get("score") == "oracle") != (oracle is not None):
            raise ConfigError("score='oracle' and oracle=... go together: give both or neither")
        named = partner if isinstance(partner, str) else "none" if partner is None else str(partner.name)
        changed: dict[str, Any] = {name: value for name, value in changes.items() if value != "oracle"}
        self.settings = settings = change_cascade(settings or slm.config.cascade, changed | {"partner": named})
        slm = as_called(slm, settings)
        if isinstance(partner, str):
            directory, corpus = directory or slm.config.data.directory, slm.config.corpus
            if searches_corpus(partner):
                corpus = corpus_of_checkpoint(corpus, data=slm.data, directory=directory)
            partner = make_partner(
                partner,
                corpus=corpus,
                directory=directory,
                batch_size=batch_size,
                span=settings.span,
                timeout=settings.timeout,
            )
        if not isinstance(partner, Guard | None):
            partner = Guard(partner, timeout=settings.timeout)
        self.checkpoint, self.chat, self.partner = slm.path, slm.chat, partner
        self._engine = Engine(slm)
        self._calling = calling_of(
            settings, own_score=slm.own_score, call_scores=slm.call_scores, threshold=threshold, oracle=oracle
        )

    @property
    def tokenizer(self) -> TextTokenizer:
        return self._engine.tokenizer

    @property
    def score(self) -> RankedBy:
        """The score that it calls by, in place of "auto"."""
        return self._calling.score

    def scheduler(self, *, slots: int = 8) -> Scheduler:
        """For requests that come and go; at most `slots` of them run at once."""
        return Scheduler(self._engine, self.partner, self._calling, slots=slots)

    def prepare(self, requests: Sequence[Request]) -> int:
        """Lets a partner that is a checkpoint compile what the requests may need; returns how many programs that is.

        `iterate` does so first: on a CPU this can take longer than `timeout`, and a question that waits for it would
        count as unanswered. A partner that has compiled is not held up again.
        """
        calls = [each for each in requests if self.settings.budget or each.budget or each.price is not None]
        if self.partner is None or not self.partner.prepares or not calls:
            return 0
        return self.partner.warm_up([each.prompt for each in calls], more=max(each.max_new_tokens for each in calls))

    def generate(
        self, prompts: Sequence[str | Request], *, max_new_tokens: int | None = None, batch_size: int = 8
    ) -> list[Completion]:
        """Completions in the order of the prompts; see `iterate`."""
        done = dict(self.iterate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size))
        return [done[index] for index in range(len(prompts))]

    def iterate(
        self, prompts: Sequence[str | Request], *, max_new_tokens: int | None = None, batch_size: int = 8
    ) -> Iterator[tuple[int, Completion]]:
        """(index, completion) of each prompt, as they finish; at most `batch_size` run at once. See also `prepare`.

        A prompt that is a string is completed greedily, to `max_new_tokens` (None: as the settings say); a `Request`
        has settings of its own. A partner's piece is never cut, so a row may end some tokens above its length.

        Raises:
            ConfigError: one text in place of a list of them.
            DataError: a prompt that is no valid Unicode text.
        """
        if isinstance(prompts, str):  # a sequence of strings too: its letters
            raise ConfigError(f"prompts={prompts[:40]!r}: give a list of texts, also for one")
        length = self.settings.max_new_tokens if max_new_tokens is None else max_new_tokens
        scheduler = self.scheduler(slots=max(1, min(batch_size, len(prompts))))
        requests = [
            prompt if isinstance(prompt, Request) else Request(prompt, max_new_tokens=length) for prompt in prompts
        ]
        self.prepare(requests)
        indices = {scheduler.add(request): index for index, request in enumerate(requests)}
        while scheduler.running or scheduler.waiting:
            for event in scheduler.step():
                if event.completion is not None:
                    yield indices[event.id], event.completion


def as_called(slm: LoadedModel, settings: CascadeConfig) -> LoadedModel:
    """The model as a cascade of these settings uses it: its texts begin with their start token.

    Raises:
        ConfigError: it lacks a probe or the training that the score or the gate needs, or has no such token.
    """
    for setting, value in (("gate", settings.gate), ("score", settings.score)):
        if value == "factual" and slm.factual_probe is None:
            raise ConfigError(
                f"{setting}='factual': {slm.path} has no probe for factual tokens; lacy_jax.adapt fits one, and so "
                "does a run of lacy_jax.main on data with factual tokens"
            )
    _check_score(slm, settings.score)
    return dataclasses.replace(slm, tokenizer=starting_with(slm.tokenizer, settings.start_token))


def _check_score(slm: LoadedModel, score: ScoreSetting) -> None:
    """Raises `ConfigError` where the model lacks what the score needs: a probe, or training that taught it `<CALL>`.

    Without that training the row of `<CALL>` is zeros: its logit is the same everywhere, and the calls mean nothing.
    """
    if score == "expected_saving" and slm.saving_probe is None:
        raise ConfigError(
            f"score=expected_saving: {slm.path} has no probe for what a partner saves; python -m lacy_jax.calibrate "
            "--score=expected_saving fits one to a checkpoint of ours"
        )
    if score == "auto" or CALL_SCORES[score].needs != "call" or slm.learned_to_call:
        return
    if not np.any(jax.device_get(decoder.output_matrix(slm.params)[slm.tokenizer.call_id])):
        free = ", ".join(name for name, each in CALL_SCORES.items() if each.needs == "nothing")
        raise ConfigError(
            f"score={score}: {slm.path} never learned <CALL>, its row of the output matrix is zeros; leave the score "
            f"out, or take one of {free}"
        )


def calling_of(
    settings: CascadeConfig,
    *,
    own_score: Score,
    call_scores: Sequence[float],
    threshold: float | None = None,
    oracle: Oracle | None = None,
) -> Calling:
    """Who calls, by settings.

    A row starts with `call_scores`, quantiles of the call score of validation text, if they are of the score in use.

    Args:
        own_score: the score that "auto" stands for.

    Raises:
        ConfigError: policy "price" with a score that is no probability.
    """
    own = own_score if settings.score == "auto" else settings.score
    score: RankedBy = "oracle" if oracle is not None else own
    budget = Budget(share=settings.budget, window=settings.window, threshold=threshold)
    if settings.policy == "price" and threshold is None:
        budget = dataclasses.replace(budget, threshold=price_threshold(score, settings.price), cap="share")
    return Calling(
        budget=budget,
        span=settings.span,
        score=score,
        gate=settings.gate,
        account=settings.account,
        warm_scores=tuple(call_scores) if (score, settings.gate) == ("call_score", "none") else (),
        oracle=oracle,
    )
