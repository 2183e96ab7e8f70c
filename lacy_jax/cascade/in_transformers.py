"""The cascade of an exported model in transformers: PyTorch writes, a logits processor decides where it calls.

    from lacy_jax.cascade import make_partner
    from lacy_jax.cascade.in_transformers import TorchCascade

    cascade = TorchCascade(model, "runs/slm_tiny_hf_export", partner=make_partner("documents"))
    print(cascade.generate(["Marie Curie was born in"])[0].text)

`CallProcessor` alone makes `generate` end with `<CALL>` where the cascade would ask. Scores, gate, budget and text are
those of our own cascade (scores.py, budget.py, rows.py); PyTorch is imported when something is written.
"""

import copy
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lacy_jax.cascade import budget as budgets
from lacy_jax.cascade.cascade import calling_of
from lacy_jax.cascade.decoding.engine import Step, encode_text, goes_on, window_start
from lacy_jax.cascade.partners import Partner
from lacy_jax.cascade.partners.guard import Guard
from lacy_jax.cascade.rows import Completion, Request, Row, may_call, resume, take_own
from lacy_jax.cascade.scheduler import Calling
from lacy_jax.cascade.scores import score_of
from lacy_jax.checkpoints.exports.hf_folder import CASCADE_FILE, CASCADE_SETTINGS
from lacy_jax.config import CascadeConfig
from lacy_jax.data.files import parse_json
from lacy_jax.data.hf_tokenizer import HfTokenizer
from lacy_jax.errors import CheckpointError, ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class CallRule:
    """What an exported folder says about calling, and its tokenizer.

    probes: hidden @ probe[:-1] + probe[-1], float32 [D + 1], or None: log-odds that the next token is a fact, and the
    nats that the partner saves.
    token_bytes: of each token before `<CALL>`, b"" for control tokens. emitted: whether a token may be written, bool
    [call_id]. goes_on: whether it goes on with a word before it.
    """

    settings: CascadeConfig
    calling: Calling
    tokenizer: HfTokenizer
    call_id: int
    probes: tuple[np.ndarray | None, np.ndarray | None]
    token_bytes: list[bytes]
    emitted: np.ndarray
    goes_on: np.ndarray


def read_rule(folder: str | Path, **changes: Any) -> CallRule:
    """The rule of a folder that `lacy_jax.export --format=hf` wrote.

    Args:
        changes: settings that differ, such as budget=0.1: policy, price, budget, window, score, gate, span,
            max_new_tokens.

    Raises:
        CheckpointError: it has no cascade.json, or one that cannot be read.
        ConfigError: settings that do not go together, or out of range.
    """
    path = Path(folder) / CASCADE_FILE
    try:
        said = parse_json(path.read_bytes())
        own = {name: said[name] for name in (*CASCADE_SETTINGS, "score")}
        call_id, start_id = said["call_token_id"], said["start_token_id"]
        call_scores = tuple(said["call_scores"])
        probes = _probe(said["factual_probe"]), _probe(said.get("saving_probe"))
        settings = CascadeConfig(**(own | changes))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; lacy_jax.export --format=hf writes it") from None
    for setting, value in (("gate", settings.gate), ("score", settings.score)):
        if value == "factual" and probes[0] is None:
            raise ConfigError(f"{setting}='factual': {path} has no probe for factual tokens")
    if settings.score == "expected_saving" and probes[1] is None:
        raise ConfigError(f"score='expected_saving': {path} has no probe for what a partner saves")
    tokenizer = copy.copy(HfTokenizer.from_folder(folder))
    tokenizer.start_id = start_id
    words = [tokenizer.decode_bytes([token]) for token in range(call_id)]
    emitted = np.array([bool(each) for each in words])
    emitted[list(tokenizer.end_ids)] = True
    return CallRule(
        settings=settings,
        calling=calling_of(settings, own_score=own["score"], call_scores=call_scores),
        tokenizer=tokenizer,
        call_id=call_id,
        probes=probes,
        token_bytes=words,
        emitted=emitted,
        goes_on=goes_on(words, vocab=call_id),
    )


def _probe(said: dict[str, Any] | None) -> np.ndarray | None:
    return None if said is None else np.array([*said["weights"], said["bias"]], np.float32)


def said_of(logits: np.ndarray, *, call_id: int) -> dict[str, float]:
    """What a model says of calling by its logits, float32 [V]: the fields of a `Step`, without the token's own."""
    others = logits[:call_id]
    top = others.max()
    weights = np.exp(others - top)
    total = weights.sum()
    lse = top + np.log(total)
    return {
        "call_score": float(logits[call_id] - lse),
        "call_logit": float(logits[call_id]),
        "uncertainty": float(-np.expm1(top - lse)),
        "entropy": float(lse - (weights * others).sum() / total),
    }


class CallProcessor:
    """A logits processor for one text: where the cascade calls, the only token left is `<CALL>`.

    Give `<CALL>` to `generate` as one of the tokens that end a text, and what follows is the partner's. The processor
    looks at the output layer of the model, before others change the logits. Use it in a `with` block, or `close` it.

    row: the text, and its account of calls; `row.asked` says where it called.
    """

    def __init__(self, model: Any, rule: CallRule, row: Row, *, given: int) -> None:
        """`given`: how many tokens `generate` is given; those after them are new."""
        self.row = row
        self._rule, self._known = rule, given
        self._step: tuple[Step, float] | None = None
        self._hidden: Any = None
        self._logits: Any = None
        self._hook = model.get_output_embeddings().register_forward_hook(self._keep)

    def __enter__(self) -> "CallProcessor":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the model as it was."""
        self._hook.remove()

    def _keep(self, _module: Any, entered: tuple[Any, ...], logits: Any) -> None:
        self._hidden, self._logits = entered[0][:, -1], logits[:, -1]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The logits, [1, V], with those of all tokens that may not follow at minus infinity.

        Raises:
            ConfigError: more than one text.
        """
        if input_ids.shape[0] != 1:
            raise ConfigError("CallProcessor: it decides for one text; give one at a time, and no beams")
        self.take(input_ids[0].tolist())
        import torch

        allowed, call = self._decide(), torch.full_like(scores, -float("inf"))
        if self.row.asked is not None:
            call[:, self._rule.call_id] = 0.0
            return call
        return torch.where(torch.from_numpy(allowed).to(scores.device), self._logits.to(scores.dtype), call)

    def take(self, ids: Sequence[int]) -> None:
        """Appends what was written since the last decision to the text, `<CALL>` left out."""
        for token in ids[self._known :]:
            self._known += 1
            if token != self._rule.call_id and self._step is not None and self.row.finish is None:
                step, score = self._step
                take_own(self.row, step._replace(token=token), score, engine=self._rule)

    def _decide(self) -> np.ndarray:
        """Calls, or not; bool [V], the tokens that may follow."""
        rule, row = self._rule, self.row
        logits = self._logits[0].float().cpu().numpy()
        hidden = self._hidden[0].float().cpu().numpy()
        fact, saving = (0.0 if probe is None else float(hidden @ probe[:-1] + probe[-1]) for probe in rule.probes)
        factual = 0.5 * (1.0 + math.tanh(0.5 * fact))
        allowed = np.zeros(logits.shape, bool)
        allowed[: rule.call_id] = rule.emitted
        if rule.calling.span != "token" and row.ends_with_partner:
            allowed[: rule.call_id] &= ~rule.goes_on
        own = int(np.argmax(np.where(allowed, logits, -np.inf)))
        step = Step(token=own, **said_of(logits, call_id=rule.call_id), factual=factual, saving=saving)
        assert rule.calling.score != "oracle"
        score = float(score_of(rule.calling.score, step._asdict(), gate=rule.calling.gate))
        self._step = (step, score)
        if may_call(row):
            row.state, call = budgets.decide(row.budget, row.state, score, left=row.left)
            if call:
                row.asked = self._step
        return allowed


class TorchCascade:
    """A model of transformers that was loaded from an exported folder, and a partner; greedy, one text at a time.

    Each piece of the partner's is spliced into the text as in our own cascade, and the model reads the text again.
    """

    def __init__(self, model: Any, folder: str | Path, *, partner: Partner | None, **changes: Any) -> None:
        """`changes`: as for `read_rule`, which says what is raised."""
        self.rule = read_rule(folder, **changes)
        self._model = model
        self._partner = None if partner is None else Guard(partner, timeout=self.rule.settings.timeout)

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int | None = None) -> list[Completion]:
        """Completions in the order of the prompts, to `max_new_tokens` (None: as the folder says)."""
        length = self.rule.settings.max_new_tokens if max_new_tokens is None else max_new_tokens
        if self._partner is not None and prompts and self.rule.settings.budget:
            self._partner.warm_up(prompts, more=length)  # as `Cascade.prepare`
        return [self._complete(prompt, length=length) for prompt in prompts]

    def _complete(self, prompt: str, *, length: int) -> Completion:
        rule = self.rule
        budget = rule.calling.budget
        if self._partner is None:
            budget = dataclasses.replace(budget, share=0.0, threshold=None)
        row = Row(
            id=0,
            request=Request(prompt, max_new_tokens=length),
            budget=budget,
            state=budgets.start(budget, warm_scores=rule.calling.warm_scores),
            text=prompt,
            ids=encode_text(rule.tokenizer, prompt),
            finish=None if length else "length",
        )
        while row.finish is None:
            self._write(row)
            if row.asked is not None:
                assert self._partner is not None
                resume(row, self._partner.submit([row.text]).result()[0], engine=rule)
        return row.completion()

    def _write(self, row: Row) -> None:
        """Lets the model write until it calls, ends, or has to forget the beginning of its text."""
        import torch

        rule, context = self.rule, self._model.config.max_position_embeddings
        start = window_start(len(row.ids), context=context)
        ids, steps = row.ids[start:], 1
        while steps < row.left and window_start(len(row.ids) + steps, context=context) == start:
            steps += 1
        tokens = torch.tensor([ids], device=self._model.device)
        with CallProcessor(self._model, rule, row, given=len(ids)) as processor:
            written = self._model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=steps,
                do_sample=False,
                eos_token_id=[*rule.tokenizer.end_ids, rule.call_id],
                logits_processor=[processor],
            )
            processor.take(written[0].tolist())
