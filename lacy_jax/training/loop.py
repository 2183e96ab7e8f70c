"""A run from its first step, or its newest checkpoint, to the end of its budget.

A step's loss and gradient norm are looked at one step late, and checkpoints are written in the background, so neither
keeps the devices waiting. Only steps of a second or more are waited for (stopping.py). What a step does depends on the
step number and the state alone, so a run that was killed and started again ends with the same bits as one that never
was.
"""

import contextlib
import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np

from lacy_jax.budget import decay_begins
from lacy_jax.checkpoints.format import model_meta, probe_of
from lacy_jax.checkpoints.initial import initial_chat
from lacy_jax.config import Config
from lacy_jax.config_dict import config_from_dict, config_to_dict
from lacy_jax.console import Reporter, duration
from lacy_jax.data.loader import prefetch
from lacy_jax.data.mixing import in_turn
from lacy_jax.data.mixture import describe_mixture
from lacy_jax.data.prepared import Prepared
from lacy_jax.data.weights import trained_names
from lacy_jax.errors import CheckpointError, NotFiniteError
from lacy_jax.measures.finite import all_finite
from lacy_jax.model import decoder
from lacy_jax.model.probe import Probe
from lacy_jax.runtime import distributed, sharding
from lacy_jax.training.announce import describe_jump, describe_run
from lacy_jax.training.budget import BudgetMeter
from lacy_jax.training.checkpoints import BEFORE_DECAY, Checkpoints
from lacy_jax.training.compiled import compile_train_step
from lacy_jax.training.evaluate import Evaluator, place_batch
from lacy_jax.training.goodput import Goodput, describe
from lacy_jax.training.health import read_health
from lacy_jax.training.metrics import validation_record
from lacy_jax.training.probe import fit_probe
from lacy_jax.training.profile import PROFILE_FOLDER, Profiler, Steps
from lacy_jax.training.questions import QuestionEvaluator
from lacy_jax.training.reference import load_reference
from lacy_jax.training.run import Run
from lacy_jax.training.run_log import RunLog
from lacy_jax.training.sources import together
from lacy_jax.training.state import TrainState, new_state, state_shardings
from lacy_jax.training.stopping import Stops, stop_requests
from lacy_jax.training.watchdog import Watchdog

SCORE_QUANTILES = 201  # of the validation call scores, saved with a checkpoint to start a cascade's budget


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Where a run stands when the loop returns; `finished` is false when a signal ended it early."""

    step: int
    finished: bool
    seconds: float


def train(
    config: Config,
    *,
    prepared: Prepared,
    workdir: str,
    reporter: Reporter,
    goodput: Goodput | None = None,
    profile: Steps | None = None,
) -> TrainResult:
    """Trains to the end of the budget, resuming from `<workdir>/checkpoints` if there is one.

    Args:
        goodput: counts the time since the program began; None: the time from here on.
        profile: the steps to trace into `<workdir>/profile`, a folder on a disk.

    Raises:
        CheckpointError: the workdir holds a run with other settings or data, or the reference model does not fit.
        DataError: the files in `config.training.questions` cannot be read.
        MeshError: the devices, the batch or the model do not fit config.mesh, or processes disagree or
            have work folders of their own.
        NotFiniteError: too many steps in a row, or the parameters, are not finite (docs/training.md).
        StorageError: the disk is full, or has no room for a first checkpoint; or a bucket cannot be reached.
    """
    batch_size, microbatches = config.data.batch_size, config.training.microbatches
    mesh = sharding.make_mesh(config.mesh, batch_size=batch_size, microbatches=microbatches)
    # Where data lies may differ from machine to machine, what it is may not.
    settings = dataclasses.replace(config, data=dataclasses.replace(config.data, directory="", packed="", mixture=""))
    fingerprints = [prepared.fingerprint, *(part.fingerprint for part in prepared.parts.values())]
    distributed.check_agreement("settings or prepared data", [config_to_dict(settings), fingerprints])
    distributed.check_one_folder(workdir)
    vocab = decoder.padded_vocab(prepared.tokenizer.vocab_size)
    goodput = goodput or Goodput()
    with jax.set_mesh(mesh), goodput.compiling_noticed():
        tokenizer = prepared.tokenizer.fingerprint
        reference = load_reference(config, tokenizer=tokenizer, vocab=vocab, mesh=mesh)
        checkpoints = Checkpoints(workdir, config)
        chat = initial_chat(config.model.initial) if config.model.initial else None
        questions = QuestionEvaluator(config, tokenizer=prepared.tokenizer, mesh=mesh)
        run = Run(config, prepared, mesh, vocab, checkpoints, reporter, reference, chat, goodput, questions)
        try:
            with stop_requests(reporter.say) as stops:
                state, meta = _start(run)
                stops.asked(int(state.step))  # compiling takes minutes: a signal may come before the first step
                with goodput.of("compile"):
                    take_step = compile_train_step(
                        config, vocab=vocab, call_id=run.call_id, mesh=mesh, reference=reference
                    )
                said = describe_run(config, vocab=vocab, mesh=mesh, state=state, step=take_step)
                for line in [*said, *describe_mixture(config, prepared)]:
                    reporter.say(line)
                profiler = Profiler(profile if jax.process_index() == 0 else None, folder=f"{workdir}/{PROFILE_FOLDER}")
                return _loop(run, state, meta, workdir=workdir, take_step=take_step, stops=stops, profiler=profiler)
        finally:
            checkpoints.close()


def _start(run: Run) -> tuple[TrainState, dict[str, Any]]:
    """The newest checkpoint's state and meta, or a new state made in place on the devices, and {}."""
    if run.checkpoints.latest is None:
        state = new_state(run.config, vocab=run.vocab, mesh=run.mesh)
        run.checkpoints.check_room(state)
        return state, {}
    data = run.prepared.fingerprint
    placed = state_shardings(run.config, vocab=run.vocab, mesh=run.mesh)
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
    run: Run,
    state: TrainState,
    meta: dict[str, Any],
    *,
    workdir: str,
    take_step: jax.stages.Compiled,
    stops: Stops,
    profiler: Profiler,
) -> TrainResult:
    training = run.config.training
    evaluate = Evaluator(run.config, call_id=run.call_id, mesh=run.mesh)
    started = time.monotonic()
    first = step = saved = int(state.step)
    meter = BudgetMeter(run.config, state)
    log = RunLog(run, workdir, step=step, meter=meter, health=read_health(meta.get("health")))
    scores: list[float] = meta.get("call_scores", [])
    probe = probe_of(meta, "factual_probe")
    record: dict[str, float] = {}
    validated = -1  # the step that `record` is of
    with (
        Watchdog(training.hang_seconds) as watchdog,
        contextlib.closing(_batches(run, step)) as batches,
        contextlib.closing(log),
        contextlib.closing(profiler),
        run.goodput.of("step"),
    ):

        def save() -> None:
            watchdog.watch("saving step", step)
            own = record if validated == step else None
            _save(run, state, step=step, scores=scores, probe=probe, validation=own, log=log)

        finished = meter.spent(step, state)
        while not finished and not stops.asked(step):
            watchdog.watch("step", step + 1)
            step += 1
            with profiler.before(step):
                state, sums = take_step(state, next(batches), run.reference)
            log.after_step(step, sums)
            stops.wait(sums)
            profiler.after(step, sums)
            finished = meter.spent(step, state)
            # The last step is validated before it is saved: a run that is killed in between comes here again.
            if finished or step % training.evaluate_every == 0:
                watchdog.watch("validation after step", step)
                log.flush()
                record, found = _validate(run, state, evaluate, log=log, step=step)
                scores, validated = found or scores, step
            _answer(run, state, log, step=step, last=finished, watchdog=watchdog)
            if finished or step % training.checkpoint_every == 0:
                watchdog.watch("probe after step", step)
                probe = _probe(run, state, log)
                save()
                saved = step
        if saved != step:  # after a signal: somebody waits, so the probe and the scores are those that are there
            save()
        _account(run, log, first=first, step=step, profiler=profiler)
    return TrainResult(step=step, finished=finished, seconds=time.monotonic() - started)


def _account(run: Run, log: RunLog, *, first: int, step: int, profiler: Profiler) -> None:
    """Waits for the last save, and says where the time went, and the trace; a run that took no step says nothing."""
    if step == first:
        return
    with run.goodput.of("save"):
        run.checkpoints.wait()
    spent = log.account(step)
    run.reporter.say(f"time        {duration(spent['seconds/wall'])}: {describe(spent)}")
    run.reporter.say(f"loader      a step waits for its batch for {spent['loader_share']:.1%} of its time")
    if profiler.state == "done":
        run.reporter.say(f"profile     {profiler.folder}")
    elif profiler.state == "waiting":
        run.reporter.say(f"profile     none: this start took the steps {first + 1:,} to {step:,}")


def _validate(
    run: Run, state: TrainState, evaluate: Evaluator, *, log: RunLog, step: int
) -> tuple[dict[str, float], list[float]]:
    """The record of a validation, and quantiles of its finite call scores, ascending; [] where it has none. Writes it.

    Of a mixture each dataset has a record `validation/<name>`, too; `validation` is of the trained ones together.
    """
    prepared, lengths = run.prepared, run.prepared.tokenizer.byte_lengths
    with run.goodput.of("evaluate"):
        values = functools.partial(evaluate, state.inference_params, step=state.step, reference=run.reference)
        each = {name: values(part.validation) for name, part in prepared.parts.items()}
        trained = trained_names(run.config.data.mixture)
        tokens = together([each[name] for name in trained]) if trained else values(prepared.validation)
        found = {"validation": tokens} | {f"validation/{name}": own for name, own in each.items()}
        records = {split: validation_record(own, byte_lengths=lengths) for split, own in found.items()}
    for split, record in records.items():
        log.write(record, step, split)
    scores = tokens["call_score"][np.isfinite(tokens["call_score"])]
    quantiles = [float(q) for q in np.quantile(scores, np.linspace(0, 1, SCORE_QUANTILES))] if scores.size else []
    return records["validation"], quantiles


def _answer(run: Run, state: TrainState, log: RunLog, *, step: int, last: bool, watchdog: Watchdog) -> None:
    """Lets the model answer the questions of `config.training.questions` where they are due, and writes the record."""
    if run.questions.due(step, last=last):
        watchdog.watch("questions after step", step)
        log.flush()
        with run.goodput.of("evaluate"):
            answers = run.questions(state.inference_params)
        log.write(answers, step, "questions")


def _probe(run: Run, state: TrainState, log: RunLog) -> Probe | None:
    log.flush()
    count, params = run.config.training.evaluate_batches, state.inference_params
    with run.goodput.of("evaluate"):
        return fit_probe(params, in_turn(run.prepared.train), config=run.config, mesh=run.mesh, batches=count)


def _save(
    run: Run,
    state: TrainState,
    *,
    step: int,
    scores: list[float],
    probe: Probe | None,
    validation: dict[str, float] | None,
    log: RunLog,
) -> None:
    """Starts saving a step; `validation` is the record of its own validation, if it had one.

    Raises:
        NotFiniteError: the state has numbers that are not finite.
    """
    with run.goodput.of("save"):
        log.sync(step)
        _check_savable(state, step=step, checkpoints=run.checkpoints)
        meta = model_meta(
            run.config,
            tokenizer=run.prepared.tokenizer,
            step=step,
            data=run.prepared.fingerprint,
            call_scores=scores,
            factual_probe=probe,
            chat=run.chat,
        )
        meta |= {"health": log.health.to_dict()}
        if run.config.optimizer.schedule == "wsd":
            meta |= {BEFORE_DECAY: BudgetMeter(run.config, state).used(step) <= decay_begins(run.config)}
        run.checkpoints.save(state, step=step, meta=meta, validation=validation)


def _check_savable(state: TrainState, *, step: int, checkpoints: Checkpoints) -> None:
    """Raises `NotFiniteError` where the state is not finite: saved, it would in time take the place of a good one."""
    # Waited for on every device: on CPUs a program that another one overtakes can hang several processes.
    if not jax.block_until_ready(all_finite(jax.block_until_ready((state.params, state.optimizer)))):
        raise NotFiniteError(
            f"the parameters after step {step:,} are not finite, so they are not saved; "
            f"{checkpoints.describe_newest()}; a lower config.optimizer.learning_rate (in another --workdir) may help"
        )


def _batches(run: Run, step: int) -> Any:
    """Batches from `step` on, two of them on the devices ahead of the step that uses them."""
    data, size = run.config.data, run.config.data.batch_size
    rows = sharding.process_rows(run.mesh, size)
    place = functools.partial(place_batch, mesh=run.mesh, batch_size=size)
    read: Any = prefetch(run.prepared.train, step, batch_size=size, seed=data.seed, rows=rows, place=place)
    with contextlib.closing(read):
        while True:
            with run.goodput.of("data"):
                batch = next(read)
            yield batch
