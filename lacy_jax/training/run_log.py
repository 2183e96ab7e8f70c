"""What is said and written of each step of a run, and the end of one whose numbers stay not finite."""

import time
from typing import Any

import jax

from lacy_jax.config_dict import config_to_dict
from lacy_jax.data.origin import batch_texts, shown
from lacy_jax.data.weights import trained_names
from lacy_jax.errors import NotFiniteError
from lacy_jax.paths import absolute
from lacy_jax.runtime.claims import check_claim
from lacy_jax.training.budget import BudgetMeter
from lacy_jax.training.checkpoints import flat_settings
from lacy_jax.training.flops import flops_per_token, mesh_peak
from lacy_jax.training.goodput import SPLIT
from lacy_jax.training.health import Health
from lacy_jax.training.metrics import MetricWriter, mean_loss, read_metrics, training_record
from lacy_jax.training.run import Run
from lacy_jax.training.sources import source_records
from lacy_jax.training.tracking.senders import Senders, run_id
from lacy_jax.training.tracking.trackers import Tracked, tracker_names


class RunLog:
    """Looks at every step one step late, so that the device never waits, and writes its record where one is due.

    health: of the run up to the last step that was looked at.
    """

    def __init__(self, run: Run, workdir: str, *, step: int, meter: BudgetMeter, health: Health):
        self._run, self._first, self._meter, self.health = run, step, meter, health
        self._workdir = workdir
        if jax.process_index() == 0:
            run.goodput.resume(read_metrics(workdir), step=step)
        self._writer = MetricWriter(workdir, resume_step=step) if jax.process_index() == 0 else None
        self._senders = _senders(run, workdir, self._writer) if self._writer is not None else None
        self._waiting: tuple[int, dict[str, jax.Array]] | None = None
        self._clock: tuple[float, int] | None = None
        self._started = time.monotonic()
        self._note = ""
        self._names = trained_names(run.config.data.mixture)

    def after_step(self, step: int, sums: dict[str, jax.Array]) -> None:
        """Looks at the step before, keeps this one's sums until the next call, and shows how far the run is."""
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
        """Writes a record; process 0 does it for all."""
        if self._writer is not None:
            self._writer.write(record, step=step, split=split)

    def account(self, step: int) -> dict[str, float]:
        """Writes, and gives, what the time of the run up to here was spent on."""
        spent = self._run.goodput.record()
        self.write(spent, step, SPLIT)
        return spent

    def sync(self, step: int) -> None:
        """To be called before that step is saved: its records are never written again, and the folder is still ours."""
        self.flush()
        self.account(step)
        check_claim(self._workdir)
        if self._writer is not None:
            self._writer.sync()

    def close(self) -> None:
        if self._senders is not None:
            self._senders.close()
        if self._writer is not None:
            self._writer.close()

    def _record(self, step: int, sums: dict[str, jax.Array], marks: dict[str, Any]) -> None:
        """Writes a step's record, with its speed and with what makes it remarkable."""
        numbers = jax.device_get(sums)
        record = training_record(numbers)
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
        sources = source_records(numbers, self._names)
        self._note += "".join(f"  {name} {own['nll/all']:.3f}" for name, own in sources.items())
        with self._run.goodput.of("other"):
            self.write(record | marks, step, "train")
            for name, own in sources.items():
                self.write(own, step, f"train/{name}")
            self.account(step)

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
            f"{self._run.checkpoints.describe_newest()}; --replay_step={step - count} shows the first of these batches"
        )


def _senders(run: Run, workdir: str, writer: MetricWriter) -> Senders | None:
    """The processes that send the records of `writer` to the trackers that the settings name; None without any."""
    names = tracker_names(run.config.training.trackers)
    if not names:
        return None
    tracked = Tracked(
        id=run_id(absolute(workdir)),
        name=f"{run.config.name}-{run.config.method}",
        folder=str(writer.folder / "tracking"),
        settings=flat_settings(config_to_dict(run.config)),
    )
    run.reporter.say(f"trackers    {', '.join(names)}")
    return Senders(names, run=tracked, path=writer.path, say=run.reporter.say)
