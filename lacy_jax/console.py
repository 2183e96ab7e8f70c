"""What a run says while it works: bars on a terminal, a plain line now and then in a log file."""

import contextlib
import time
from collections.abc import Iterable, Iterator

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

LOG_SECONDS = 20.0  # between two lines of a stage, where there is no terminal


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2f}/s", style="cyan")


class _Bar(Progress):
    """A stage's bar, and its note on lines of its own: beside the bar, a terminal of 80 columns has no room for it."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if note := task.fields["note"]:
                yield Text(f"  {note}", no_wrap=False, overflow="fold")  # the console wraps nothing by itself


class Reporter:
    """Shows the progress of one stage after another. `update` is what rooms are given as their progress callback."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self._progress: Progress | None = None
        self._stage: str | None = None
        self._started = self._logged = 0.0
        self._first = 0
        self._note = ""

    def say(self, message: str) -> None:
        """One line, above any bar."""
        self.console.print(message, markup=False)

    def note(self, text: str) -> None:
        """The text after the counts of a stage, where `update` gets none."""
        self._note = text

    def update(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """`done` of `total` units of a stage; the first call of a stage opens its bar, the next stage's closes it."""
        now = time.monotonic()
        if stage != self._stage:
            self.finish()
            self._stage, self._started, self._logged, self._first = stage, now, now, done
        note = note or self._note
        if self.console.is_terminal:
            self._bar(stage, done, total, note)
            return
        finished = total is not None and done >= total and now > self._logged
        if self._logged == self._started and done > self._first and not finished:
            self._logged = now  # units may come in batches: the first one alone says no speed
        elif finished or now - self._logged >= LOG_SECONDS:
            self._logged = now
            self.say(_log_line(stage, done, total, note, since_start=done - self._first, seconds=now - self._started))

    def finish(self) -> None:
        """Closes the bar of the stage under way."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._stage, self._note = None, None, ""

    def _bar(self, stage: str, done: int, total: int | None, note: str) -> None:
        if self._progress is None:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description:<22}"),
                BarColumn(24),  # the one column that a narrow terminal makes narrower
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                _Speed(table_column=Column(no_wrap=True)),
                TimeElapsedColumn(table_column=Column(no_wrap=True)),
                TextColumn("left"),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
            )
            self._progress = _Bar(*columns, console=self.console, speed_estimate_period=60)
            self._progress.start()
            self._progress.add_task(stage, total=total, completed=done, note=note)
        self._progress.update(self._progress.task_ids[0], completed=done, total=total, note=note)


def _log_line(stage: str, done: int, total: int | None, note: str, *, since_start: int, seconds: float) -> str:
    line = f"{stage}: {done:,}" + (f" of {total:,}" if total is not None else "")
    speed = since_start / seconds if seconds > 0 else 0.0
    if speed > 0:
        line += f", {speed:,.1f}/s"
        if total is not None and done < total:
            line += f", {duration((total - done) / speed)} left"
    return f"{line}  {note}".rstrip()


def duration(seconds: float) -> str:
    """1h 05m, 3m 20s, 12s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


@contextlib.contextmanager
def reporting(*, quiet: bool = False) -> Iterator[Reporter]:
    """A reporter whose bar is gone whatever happens; quiet in all but one process of a run."""
    reporter = Reporter(quiet=quiet)
    try:
        yield reporter
    finally:
        reporter.finish()
