"""The cascade: an SLM writes, and where it calls, a partner writes instead.

Text is the truth, token ids are a cache of it: the partner is given text and gives text, so the two need
not share a tokenizer.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from lacy_jax.cascade.budget import Budget
from lacy_jax.cascade.decoding.engine import Engine
from lacy_jax.cascade.partners import Partner, make_partner
from lacy_jax.cascade.partners.guard import Guard
from lacy_jax.cascade.rows import Completion, Request
from lacy_jax.cascade.scheduler import Calling, Oracle, Scheduler
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import Account, CascadeConfig, CorpusConfig, Gate, ScoreSetting, Span
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.errors import ConfigError


class Cascade:
    """An SLM, a partner and a budget: `Cascade(load(path), "documents", budget=0.22).generate(["..."])`."""

    def __init__(
        self,
        slm: LoadedModel,
        partner: Partner | str | None,
        *,
        budget: float = 0.22,
        window: int = 512,
        score: ScoreSetting | Literal["oracle"] = "auto",
        gate: Gate = "none",
        account: Account = "row",
        span: Span = "word",
        threshold: float | None = None,
        oracle: Oracle | None = None,
        timeout: float = 30.0,
    ):
        """`partner=None` never calls, and so does `budget=0`; `budget=1` always calls.

        Args:
            slm: the model that writes; its checkpoint's `call_scores`, if any, start the running quantile.
            partner: who answers calls, or its spec for `make_partner`: "documents" are those the SLM was trained on.
            budget: the share of SLM tokens to delegate, 0 to 1.
            window: how many of the last scores rank the next one.
            score: what is ranked. "auto" is the call score (log-odds) of a model that was trained to call, and
                "uncertainty" (1 - max p), the inference-only baseline, of any other. "oracle" asks `oracle`.
            gate: "factual" weighs the score by how likely the SLM's own next token is a fact (see `Step.factual`).
            account: "row" keeps each row on the budget by itself; "shared" only all rows together, and then a row's
                text depends on those beside it.
            span: how far the partner writes at a call. Of a partner that is given as an object it only says what it
                does: unless "token", its words and numbers are whole, and the SLM does not go on with them.
            threshold: calls wherever the score is above it, in place of a budget.
            oracle: (text so far, the SLM's own next token) -> whether to call, where the truth is known.
            timeout: seconds after which a question to the partner counts as unanswered.

        Raises:
            ConfigError: a value out of range, or settings that do not go together.
            PartnerError, DataError, CheckpointError: a partner that cannot be made of its spec.
        """
        if (score == "oracle") != (oracle is not None):
            raise ConfigError("score='oracle' and oracle=... go together: give both or neither")
        if gate == "factual" and slm.factual_probe is None:
            raise ConfigError(
                f"gate='factual': {slm.path} has no probe for factual tokens; a run of lacy_jax.main on data with "
                "factual tokens saves one"
            )
        if score == "auto":
            score = "call_score" if slm.learned_to_call else "uncertainty"
        if isinstance(partner, str):
            corpus, directory = slm.config.corpus, slm.config.data.directory
            partner = make_partner(partner, corpus=corpus, directory=directory, span=span, timeout=timeout)
        self._engine = Engine(slm)
        self.partner = partner if partner is None or isinstance(partner, Guard) else Guard(partner, timeout=timeout)
        self._calling = Calling(
            budget=Budget(share=budget, window=window, threshold=threshold),
            span=span,
            score=score,
            gate=gate,
            account=account,
            warm_scores=slm.call_scores if (score, gate) == ("call_score", "none") else (),
            oracle=oracle,
        )

    @property
    def tokenizer(self) -> TextTokenizer:
        return self._engine.tokenizer

    def scheduler(self, *, slots: int = 8) -> Scheduler:
        """For requests that come and go; at most `slots` of them run at once."""
        return Scheduler(self._engine, self.partner, self._calling, slots=slots)

    def generate(
        self, prompts: Sequence[str | Request], *, max_new_tokens: int = 64, batch_size: int = 8
    ) -> list[Completion]:
        """Completions in the order of the prompts; see `iterate`."""
        done = dict(self.iterate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size))
        return [done[index] for index in range(len(prompts))]

    def iterate(
        self, prompts: Sequence[str | Request], *, max_new_tokens: int = 64, batch_size: int = 8
    ) -> Iterator[tuple[int, Completion]]:
        """(index, completion) of each prompt, as they finish; at most `batch_size` run at once.

        A prompt that is a string is completed greedily, to `max_new_tokens`; a `Request` says all that itself. A
        partner's piece is never cut, so a row may end some tokens above its length.

        Raises:
            ConfigError: one text in place of a list of them.
            DataError: a prompt that is no valid Unicode text.
        """
        if isinstance(prompts, str):  # a sequence of strings too: its letters
            raise ConfigError(f"prompts={prompts[:40]!r}: give a list of texts, also for one")
        scheduler = self.scheduler(slots=max(1, min(batch_size, len(prompts))))
        requests = [
            prompt if isinstance(prompt, Request) else Request(prompt, max_new_tokens=max_new_tokens)
            for prompt in prompts
        ]
        indices = {scheduler.add(request): index for index, request in enumerate(requests)}
        while scheduler.running or scheduler.waiting:
            for event in scheduler.step():
                if event.completion is not None:
                    yield indices[event.id], event.completion


def open_cascade(
    slm: LoadedModel,
    settings: CascadeConfig,
    *,
    directory: str = "",
    batch_size: int = 8,
    corpus: CorpusConfig | None = None,
) -> Cascade:
    """The cascade that settings describe, its partner made from its spec; the doors and the report open theirs so.

    Args:
        slm: the model that writes.
        settings: usually `slm.config.cascade`, with what the user changed.
        directory: where indexes of documents are kept; "": beside the data that the SLM was trained on.
        batch_size: how many texts a checkpoint partner works on at once.
        corpus: what the documents partner searches; None: the SLM's own.

    Raises:
        ConfigError, PartnerError, DataError, CheckpointError: see `Cascade` and `make_partner`.
    """
    partner = make_partner(
        settings.partner,
        corpus=corpus or slm.config.corpus,
        directory=directory or slm.config.data.directory,
        batch_size=batch_size,
        span=settings.span,
        timeout=settings.timeout,
    )
    return Cascade(
        slm,
        partner,
        budget=settings.budget,
        window=settings.window,
        score=settings.score,
        gate=settings.gate,
        account=settings.account,
        span=settings.span,
        timeout=settings.timeout,
    )
