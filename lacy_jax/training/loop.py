"""A run from its first step, or its newest checkpoint, to the end of its budget.

A step's loss and gradient norm are looked at one step late, and checkpoints are written in the background, so neither
keeps the devices waiting. Only steps of a second or more are waited for (stopping.py). What a step does depends on the
step number and the state alone, so a run that was killed and started again ends with the same bits as one that never
was.
"""

import contextlib
import dataclasses
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lacy_jax.checkpoints.format import model_meta, probe_of
from lacy_jax.config import Config, config_from_dict, config_to_dict
from lacy_jax.console import Reporter
from lacy_jax.data.loader import prefetch
from lacy_jax.data.origin import batch_texts, shown
from lacy_jax.data.prepare import Prepared
from lacy_jax.errors import CheckpointError, NotFiniteError
from lacy_jax.measures.finite import all_finite
from lacy_jax.model import decoder
from lacy_jax.model.probe import FactualProbe
from lacy_jax.runtime import distributed, sharding
from lacy_jax.runtime.claims import check_claim
from lacy_jax.training.announce import describe_jump, describe_run
from lacy_jax.training.budget import BudgetMeter
from lacy_jax.training.checkpoints import Checkpoints
from lacy_jax.training.compiled import compile_train_step
from lacy_jax.training.evaluate import Evaluator, place_batch
from lacy_jax.training.flops import flops_per_token, mesh_peak
from lacy_jax.training.health import Health, read_health
from lacy_jax.training.metrics import MetricWriter, mean_loss, training_record, validation_record
from lacy_jax.training.probe import fit_probe
from lacy_jax.training.reference import Reference, load_reference
from lacy_jax.training.state import TrainState, init_state, state_shardings
from lacy_jax.training.stopping import Stops, stop_requests
from lacy_jax.training.watchdog import Watchdog

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
    reference: Reference | None

    @property
    def call_id(self) -> int:
        return self.prepared.tokenizer.call_id


def train(config: Config, *, prepared: Prepared, workdir: str, reporter: Reporter) -> TrainResult:
    """Trains to the end of the budget, resuming from `<workdir>/checkpoints` if there is one.

    Raises:
        CheckpointError: the workdir holds a run with other settings or data, or the reference model does not fit.
        MeshError: the devices, the batch or the model do not fit config.mesh, or processes disagree or
            have work folders of their own.
        NotFiniteError: too many steps in a row, or the parameters, are not finite (docs/training.md).
        StorageError: the disk is full, or has no room for a first checkpoint; or a bucket cannot be reached.
    """
    batch_size, microbatches = config.data.batch_size, config.training.microbatches
    mesh = sharding.make_mesh(config.mesh, batch_size=batch_size, microbatches=microbatches)
    # Where data lies may differ from machine to machine, what it is may not.
    settings = dataclasses.replace(config, data=dataclasses.replace(config.data, directory="", packed=""))
    distributed.check_agreement("settings or prepared data", [config_to_dict(settings), prepared.fingerprint])
    distributed.check_one_folder(workdir)
    vocab = decoder.padded_vocab(prepared.tokenizer.vocab_size)
    with jax.set_mesh(mesh):
        tokenizer = prepared.tokenizer.fingerprint
        reference = load_reference(config, tokenizer=tokenizer, vocab=vocab, mesh=mesh)
        checkpoints = Checkpoints(workdir, config.training)
        run = _Run(config, prepared, mesh, vocab, checkpoints, reporter, reference)
        try:
            with stop_requests(reporter.say) as stops:
                state, meta = _start(run)
                stops.asked(int(state.step))  # compiling takes minutes: a signal may come before the first step
                take_step = compile_train_step(config, vocab=vocab, call_id=run.call_id, mesh=mesh, reference=reference)
                for line in describe_run(config, vocab=vocab, mesh=mesh, state=state, step=take_step):
                    reporter.say(line)
                return _loop(run, state, meta, workdir=workdir, take_step=take_step, stops=stops)
        finally:
            checkpoints.close()


def _start(run: _Run) -> tuple[TrainState, dict[str, Any]]:
    """The newest checkpoint's state and meta, or a new state made in place on the devices, and {}."""
    placed = state_shardings(run.config, vocab=run.vocab, mesh=run.mesh)
    if run.checkpoints.latest is None:
        state = jax.jit(lambda: init_state(run.config, vocab=run.vocab), out_shardings=placed)()
        run.checkpoints.check_room(state)
        return state, {}
    data = run.prepared.fingerprint
    state, meta = run.checkpoints.restore(run.config, vocab=run.vocab, shardings=placed, data=data)
    if not all_finite((state.params, state.optimizer)):
        raise CheckpointError(
            f"the training state of step {run.checkpoints.latest} has numbers that are not finite, and cannot be "
            "continued; remove the folder of that step to go on from an older one, or give this run another --workdir"
        )
    run.reporter.say(f"continuing from step {int(state.step):,}")
    if jump := describe_jump(run.config, config_from_dict(meta["config"]), state):
        run.reporter.say(jump)
    return state, meta


def _loop(
    run: _Run,
    state: TrainState,
    meta: dict[str, Any],
    *,
    workdir: str,
    take_step: jax.stages.Compiled,
    stops: Stops,
) -> TrainResult:
    training = run.config.training
    evaluate = Evaluator(run.config, call_id=run.call_id, mesh=run.mesh)
    started = time.monotonic()
    step = saved = int(state.step)
    meter = BudgetMeter(run.config, state)
    log = _Log(run, workdir, step=step, meter=meter, health=read_health(meta.get("health")))
    scores: list[float] = meta.get("call_scores", [])
    probe = probe_of(meta)
    record: dict[str, float] = {}
    validated = -1  # the step that `record` is of
    with (
        Watchdog(training.hang_seconds) as watchdog,
        contextlib.closing(_batches(run, step)) as batches,
        contextlib.closing(log),
    ):

        def save() -> None:
            watchdog.watch("saving step", step)
            log.sync()
            own = record if validated == step else None
            _save(run, state, step=step, scores=scores, probe=probe, validation=own, health=log.health)

        finished = meter.spent(step, state)
        while not finished and not stops.asked(step):
            watchdog.watch("step", step + 1)
            state, sums = take_step(state, next(batches), run.reference)
            step += 1
            log.after_step(step, sums)
            stops.wait(sums)
            finished = meter.spent(step, state)
            # The last step is validated before it is saved: a run that is killed in between comes here again.
            if finished or step % training.evaluate_every == 0:
                watchdog.watch("validation after step", step)
                log.flush()
                record, found = _validate(run, state, evaluate)
                log.write(record, step, "validation")
                scores, validated = found or scores, step
            if finished or step % training.checkpoint_every == 0:
                watchdog.watch("probe after step", step)
                log.flush()
                probe = _probe(run, state)
                save()
                saved = step
        if saved != step:  # after a signal: somebody waits, so the probe and the scores are those that are there
            save()
    return TrainResult(step=step, finished=finished, seconds=time.monotonic() - started)


def _validate(run: _Run, state: TrainState, evaluate: Evaluator) -> tuple[dict[str, float], list[float]]:
    """The record of a validation, and quantiles of its finite call scores, ascending; [] where it has none."""
    tokens = evaluate(state.params, run.prepared.validation, step=state.step, reference=run.reference)
    record = validation_record(tokens, byte_lengths=run.prepared.tokenizer.byte_lengths)
    scores = tokens["call_score"][np.isfinite(tokens["call_score"])]
    return record, [float(q) for q in np.quantile(scores, np.linspace(0, 1, SCORE_QUANTILES))] if scores.size else []


def _probe(run: _Run, state: TrainState) -> FactualProbe | None:
    count = run.config.training.evaluate_batches
    return fit_probe(state.params, run.prepared.train, config=run.config, mesh=run.mesh, batches=count)


def _save(
    run: _Run,
    state: TrainState,
    *,
    step: int,
    scores: list[float],
    probe: FactualProbe | None,
    validation: dict[str, float] | None,
    health: Health,
) -> None:
    """Starts saving a step; `validation` is the record of its own validation, if it had one.

    Raises:
        NotFiniteError: the state has numbers that are not finite.
    """
    _check_savable(state, step=step, checkpoints=run.checkpoints)
    meta = model_meta(
        run.config,
        tokenizer=run.prepared.tokenizer,
        step=step,
        data=run.prepared.fingerprint,
        call_scores=scores,
        factual_probe=probe,
    )
    run.checkpoints.save(state, step=step, meta=meta | {"health": health.to_dict()}, validation=validation)


def _check_savable(state: TrainState, *, step: int, checkpoints: Checkpoints) -> None:
    """Raises `NotFiniteError` where the state is not finite: saved, it would in time take the place of a good one."""
    # Waited for on every device: on CPUs a program that another one overtakes can hang several processes.
    if not jax.block_until_ready(all_finite(jax.block_until_ready((state.params, state.optimizer)))):
        raise NotFiniteError(
            f"the parameters after step {step:,} are not finite, so they are not saved; {_kept(checkpoints)}; a lower "
            "config.optimizer.learning_rate (in another --workdir) may help"
        )


def _kept(checkpoints: Checkpoints) -> str:
    return "there is no checkpoint" if checkpoints.latest is None else f"the newest checkpoint is {checkpoints.latest}"


def _batches(run: _Run, step: int) -> Any:
    """Device batches from `step` on, two ahead of the step that uses them."""
    data = run.config.data
    rows = sharding.process_rows(run.mesh, data.batch_size)
    for batch in prefetch(run.prepared.train, step, batch_size=data.batch_size, seed=data.seed, rows=rows):
        yield place_batch(batch, run.mesh, batch_size=data.batch_size)


class _Log:
    """Looks at every step one step late, so that the device never waits, and writes its record where one is due."""

    def __init__(self, run: _Run, workdir: str, *, step: int, meter: BudgetMeter, health: Health):
        self._run, self._first, self._meter, self.health = run, step, meter, health
        self._workdir = workdir
        self._writer = MetricWriter(workdir, resume_step=step) if jax.process_index() == 0 else None
        self._waiting: tuple[int, dict[str, jax.Array]] | None = None
        self._clock: tuple[float, int] | None = None
        self._started = time.monotonic()
        self._note = ""

    def after_step(self, step: int, sums: dict[str, jax.Array]) -> None:
        self.flush()
        self._waiting = (step, sums)
        budget = self._meter.budget
        name = budget.unit.replace("_", " ")
        note = "compiling" if step == self._first + 1 else self._note
        self._run.reporter.update(f"train ({name})", self._meter.used(step), budget.limit, note)

    def flush(self) -> None:
        """Looks at the step that waits, if any.

        Raises:
            NotFiniteError: it is one more to be skipped than `config.training.skip_nonfinite` allows in a row.
        """
        if self._waiting is None:
            return
        (step, sums), self._waiting = self._waiting, None
        numbers = jax.device_get({name: sums[name] for name in ("loss", "weight", "gradient_norm")})
        loss, norm = mean_loss(numbers), float(numbers["gradient_norm"])
        deviations = self.health.deviations(loss)
        self.health = self.health.after(loss=loss, gradient_norm=norm)
        limit = self._run.config.training.spike_deviations
        marks: dict[str, Any] = {}
        if self.health.skipped:
            marks = {"skipped": self.health.skipped}
            self._say(step, f"loss {loss:.4g}, gradient norm {norm:.4g}: not finite, so the step is skipped", marks)
        elif limit and deviations > limit:
            marks = {"spike": deviations}
            self._say(step, f"loss {loss:.4g} is {deviations:.1f} standard deviations above those before it", marks)
        if marks or step % self._run.config.training.log_every == 0 or step == 1:
            self._record(step, sums, marks)
        if self.health.skipped > self._run.config.training.skip_nonfinite:
            self._stop(step)

    def write(self, record: dict[str, Any], step: int, split: str) -> None:
        if self._writer is not None:
            self._writer.write(record, step=step, split=split)

    def sync(self) -> None:
        """To be called before a save: records of its steps are never written again, and the folder is still ours."""
        self.flush()
        check_claim(self._workdir)
        if self._writer is not None:
            self._writer.sync()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _record(self, step: int, sums: dict[str, jax.Array], marks: dict[str, Any]) -> None:
        """Writes a step's record, with its speed and with what makes it remarkable."""
        record = training_record(jax.device_get(sums))
        self._meter.note(step, record)
        now, tokens = time.monotonic(), record["tokens"]
        if self._clock is not None:
            speed = (tokens - self._clock[1]) / max(now - self._clock[0], 1e-9)
            record["tokens_per_second"] = speed
            peak = mesh_peak(self._run.mesh)
            if peak is not None:
                record["mfu"] = speed * flops_per_token(self._run.config.model, vocab=self._run.vocab) / peak
            self._note = f"loss {record['loss']:.3f}  {speed:,.0f} tokens/s"
        else:
            self._note = f"loss {record['loss']:.3f}"
        self._clock = (now, int(tokens))
        record["seconds"] = now - self._started + (self._writer.seconds_before if self._writer else 0.0)
        self.write(record | marks, step, "train")

    def _say(self, step: int, what: str, marks: dict[str, Any]) -> None:
        """Says what is remarkable about a step and how its texts begin, and adds these to `marks`, for its record."""
        if self._writer is None:
            return
        batch, data = step - 1, self._run.config.data
        texts = batch_texts(self._run.prepared, batch, data)
        marks |= {"batch": batch, "texts": texts}
        self._run.reporter.say(
            f"batch {batch} (step {step}): {what}; it reads {shown(texts)}; --replay_step={batch} shows it"
        )

    def _stop(self, step: int) -> None:
        count = self.health.skipped
        raise NotFiniteError(
            f"the loss or the gradient norm of {count} steps in a row is not finite (batches {step - count} to "
            f"{step - 1}), more than config.training.skip_nonfinite={count - 1}: the run ends and saves nothing; "
            f"{_kept(self._run.checkpoints)}; --replay_step={step - count} shows the first of these batches"
        )
