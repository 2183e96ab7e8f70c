"""A run from its first step, or its newest checkpoint, to the end of its budget.

The loop never waits for a step's result: metrics are read one step late, checkpoints are written in the
background. What a step does depends on the step number and the state alone, so a run that was killed and
started again ends with the same bits as one that never was.
"""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lacy_jax import sharding
from lacy_jax.checkpoint import CheckpointError, find_checkpoint, model_meta, read_meta, restore_params
from lacy_jax.config import Config, ModelConfig, config_from_dict
from lacy_jax.console import Reporter, duration
from lacy_jax.data.loader import prefetch
from lacy_jax.data.prepare import Prepared
from lacy_jax.model import decoder
from lacy_jax.training.budget import BudgetMeter
from lacy_jax.training.checkpoint import Checkpoints
from lacy_jax.training.evaluate import Evaluator, place_batch
from lacy_jax.training.flops import flops_per_token, parameter_count, peak_flops
from lacy_jax.training.metrics import MetricWriter, training_record, validation_record
from lacy_jax.training.probe import fit_probe
from lacy_jax.training.state import TrainState, init_state, param_shardings, state_shardings
from lacy_jax.training.step import jit_train_step

SCORE_QUANTILES = 201  # of the validation call scores, saved with a checkpoint to start a cascade's budget


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Where a run stands when the loop returns; `finished` is false when a signal ended it early."""

    step: int
    finished: bool
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the parts of a run share; `vocab` is the padded vocabulary."""

    config: Config
    prepared: Prepared
    mesh: Mesh
    vocab: int
    checkpoints: Checkpoints
    reporter: Reporter
    reference: decoder.Params | None
    reference_model: ModelConfig | None

    @property
    def call_id(self) -> int:
        return self.prepared.tokenizer.call_id


def train(config: Config, *, prepared: Prepared, workdir: str, reporter: Reporter) -> TrainResult:
    """Trains to the end of the budget, resuming from `<workdir>/checkpoints` if there is one.

    Raises:
        CheckpointError: the workdir holds a run with other settings or data, or the reference model does not fit.
        MeshError: the devices or the batch do not fit config.mesh.
    """
    mesh = sharding.make_mesh(config.mesh, batch_size=config.data.batch_size)
    vocab = decoder.padded_vocab(prepared.tokenizer.vocab_size)
    with jax.set_mesh(mesh):
        reference, reference_model = _load_reference(config, prepared, vocab=vocab, mesh=mesh)
        checkpoints = Checkpoints(workdir, keep=config.training.keep_checkpoints)
        run = _Run(config, prepared, mesh, vocab, checkpoints, reporter, reference, reference_model)
        try:
            state, scores = _start(run)
            _announce(run, state)
            return _loop(run, state, scores, workdir=workdir)
        finally:
            checkpoints.close()


def _start(run: _Run) -> tuple[TrainState, list[float]]:
    """The newest checkpoint's state and score quantiles, or a new state made in place on the devices."""
    placed = state_shardings(run.config, vocab=run.vocab, mesh=run.mesh)
    if run.checkpoints.latest is None:
        return jax.jit(lambda: init_state(run.config, vocab=run.vocab), out_shardings=placed)(), []
    data = run.prepared.fingerprint
    state, meta = run.checkpoints.restore(run.config, vocab=run.vocab, shardings=placed, data=data)
    run.reporter.say(f"continuing from step {int(state.step):,}")
    return state, meta["call_scores"]


def _load_reference(
    config: Config, prepared: Prepared, *, vocab: int, mesh: Mesh
) -> tuple[decoder.Params | None, ModelConfig | None]:
    """Rho-1's frozen reference model, sharded as a model is; (None, None) for every other rule."""
    if not config.objective.reference:
        return None, None
    folder = find_checkpoint(config.objective.reference)
    meta = read_meta(folder)
    if meta["data"]["tokenizer"] != prepared.fingerprint["tokenizer"]:
        raise CheckpointError(
            f"config.objective.reference: {folder} has another tokenizer than this run's data; train the reference on "
            "data with the same tokenizer (config.tokenizer.path)"
        )
    model = config_from_dict(meta["config"]).model
    shapes = jax.eval_shape(lambda: decoder.init_params(model, vocab=vocab, key=jax.random.key(0)))
    return restore_params(folder, model, vocab=vocab, shardings=param_shardings(mesh, shapes)), model


def _loop(run: _Run, state: TrainState, scores: list[float], *, workdir: str) -> TrainResult:
    training = run.config.training
    take_step = jit_train_step(
        run.config, vocab=run.vocab, call_id=run.call_id, mesh=run.mesh, reference_model=run.reference_model
    )
    evaluate = Evaluator(run.config, call_id=run.call_id, mesh=run.mesh, reference_model=run.reference_model)
    started = time.monotonic()
    step = evaluated = saved = int(state.step)
    meter, log = BudgetMeter(run.config, state), _Log(run, workdir, step=step)

    def validate() -> list[float]:
        log.flush()
        tokens = evaluate(state.params, run.prepared.validation, step=state.step, reference=run.reference)
        log.write(validation_record(tokens, byte_lengths=run.prepared.tokenizer.byte_lengths), step, "validation")
        return [float(q) for q in np.quantile(tokens["call_score"], np.linspace(0, 1, SCORE_QUANTILES))]

    def save() -> None:
        log.flush()
        probe = fit_probe(
            state.params,
            run.prepared.train,
            config=run.config,
            mesh=run.mesh,
            batches=run.config.training.evaluate_batches,
        )
        meta = model_meta(
            run.config,
            tokenizer=run.prepared.tokenizer,
            step=step,
            data=run.prepared.fingerprint,
            call_scores=scores,
            factual_probe=probe and probe.to_dict(),
        )
        run.checkpoints.save(state, step=step, meta=meta)

    with _stop_signals() as stop, contextlib.closing(_batches(run, step)) as batches, contextlib.closing(log):
        while not meter.spent(step, state) and not stop.is_set():
            state, sums = take_step(state, next(batches), run.reference)
            step += 1
            log.after_step(step, sums, used=meter.used(step), limit=meter.budget.limit, unit=meter.budget.unit)
            if step % training.evaluate_every == 0:
                scores, evaluated = validate(), step
            if step % training.checkpoint_every == 0:
                save()
                saved = step
        finished = meter.spent(step, state)
        if finished and evaluated != step:
            scores = validate()
        if saved != step:
            save()
    return TrainResult(step=step, finished=finished, seconds=time.monotonic() - started)


def _batches(run: _Run, step: int) -> Any:
    """Device batches from `step` on, two ahead of the step that uses them."""
    data = run.config.data
    for batch in prefetch(
        run.prepared.train,
        step,
        batch_size=data.batch_size,
        seed=data.seed,
        host=jax.process_index(),
        hosts=jax.process_count(),
    ):
        yield place_batch(batch, run.mesh)


class _Log:
    """Reads a step's sums one step late, so that the device never waits, and writes its record."""

    def __init__(self, run: _Run, workdir: str, *, step: int):
        self._run, self._first = run, step
        self._writer = MetricWriter(workdir, resume_step=step) if jax.process_index() == 0 else None
        self._waiting: tuple[int, dict[str, jax.Array]] | None = None
        self._clock: tuple[float, int] | None = None
        self._started = time.monotonic()
        self._note = "compiling"

    def after_step(self, step: int, sums: dict[str, jax.Array], *, used: int, limit: int, unit: str) -> None:
        self.flush()
        if step % self._run.config.training.log_every == 0 or step == self._first + 1:
            self._waiting = (step, sums)
        name = unit.replace("_", " ")
        self._run.reporter.update(f"train ({name})", used, limit, self._note)

    def flush(self) -> None:
        if self._waiting is None:
            return
        (step, sums), self._waiting = self._waiting, None
        record = training_record(jax.device_get(sums))
        now, tokens = time.monotonic(), record["tokens"]
        if self._clock is not None:
            speed = (tokens - self._clock[1]) / max(now - self._clock[0], 1e-9)
            record["tokens_per_second"] = speed
            peak = _mesh_peak(self._run.mesh)
            if peak is not None:
                record["mfu"] = speed * flops_per_token(self._run.config.model, vocab=self._run.vocab) / peak
            self._note = f"loss {record['loss']:.3f}  {speed:,.0f} tokens/s"
        else:
            self._note = f"loss {record['loss']:.3f}"
        self._clock = (now, int(tokens))
        record["seconds"] = now - self._started + (self._writer.seconds_before if self._writer else 0.0)
        self.write(record, step, "train")

    def write(self, record: dict[str, Any], step: int, split: str) -> None:
        if self._writer is not None:
            self._writer.write(record, step=step, split=split)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _announce(run: _Run, state: TrainState) -> None:
    """What runs where, and on a CPU how long that may take."""
    model, mesh, say = run.config.model, run.mesh, run.reporter.say
    device = mesh.devices.flat[0]
    flops = flops_per_token(model, vocab=run.vocab)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    size = f"{parameter_count(model, vocab=run.vocab) / 1e6:.1f}M parameters, {flops / 1e6:,.0f} MFLOP a token"
    say(f"{run.config.name}, method {run.config.method}: {size}, state {held / 2**20:,.0f} MiB a device")
    say(describe_objective(run.config))
    say(f"{mesh.devices.size} x {device.device_kind}, mesh " + " x ".join(f"{k} {v}" for k, v in mesh.shape.items()))
    large = sharding.replicated_large(
        mesh, state.params, jax.tree.map(lambda x: x.sharding, state.params), above_bytes=2**26
    )
    if large:
        say(f"held whole by every device, though the mesh could split them: {', '.join(large)}")
    if device.platform == "cpu":
        meter = BudgetMeter(run.config, state)
        left = meter.budget.limit - meter.used(int(state.step))
        batch_tokens = run.config.data.batch_size * model.context
        tokens = left * (batch_tokens if meter.budget.unit == "steps" else 1)
        # A training step reaches about half of the rate of a plain matrix product.
        say(f"training on a CPU: about {duration(2 * tokens * flops / _matmul_flops())} for what is left of the budget")


def describe_objective(config: Config) -> str:
    """The objective in one line: what is taken, of what, over which part of a batch, and what becomes of it."""
    settings, parts = config.objective, config.training.microbatches
    if settings.rule == "none":
        return "objective: plain next-token prediction, nothing is taken"
    rate = "all of them" if settings.rule == "factual" else f"rate {settings.rate:g} of the {settings.rate_of} targets"
    if settings.rule != "factual" and settings.rate_warmup_steps:
        rate += f" after {settings.rate_warmup_steps:,} warm-up steps"
    scope = "the whole batch"
    if parts > 1:
        scope = f"each of {parts} microbatches" if settings.scope == "microbatch" else f"{scope} ({parts} microbatches)"
    treatment = f"{settings.treatment}, normalizer {settings.normalizer}"
    return f"objective: rule {settings.rule}, {rate}, chosen over {scope}; treatment {treatment}"


def _matmul_flops() -> float:
    """Measured FLOP/s of a float32 matrix product on the default device."""
    x = jnp.ones((1024, 1024))
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    started = time.perf_counter()
    for _ in range(5):
        product(x).block_until_ready()
    return 5 * 2 * 1024**3 / (time.perf_counter() - started)


def _mesh_peak(mesh: Mesh) -> float | None:
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    return None if peak is None else peak * mesh.devices.size


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM (preemption) or Ctrl-C sets: the run saves a checkpoint and returns. A second one kills."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def request(number: int, _frame: Any) -> None:
        stop.set()
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
