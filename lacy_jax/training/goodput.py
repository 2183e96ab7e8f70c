"""Where the wall time of a run goes: how much of it was spent on steps, and on what else."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import jax

Kind = Literal["step", "compile", "data", "evaluate", "save", "restart", "lost", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SPLIT = "goodput"  # of its records in metrics.jsonl
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Goodput:
    """Seconds by what they were spent on. At each moment one kind runs, so that all kinds add up to the wall time.

    seconds: of each kind, up to the last change of kind; `record` counts up to now. now: a clock, in seconds. since:
        when the program began, by that clock; None: now.

    A new one runs as `restart`: until the first step a run starts, or starts again.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic, since: float | None = None):
        self._now, self._since = now, now() if since is None else since
        self._kind: Kind = "restart"
        self._thread = threading.get_ident()
        self.seconds: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)

    @contextlib.contextmanager
    def of(self, kind: Kind) -> Iterator[None]:
        """Inside the block this kind runs; after it, the one before."""
        before = self._kind
        self._turn(kind)
        try:
            yield
        finally:
            self._turn(before)

    def compiled(self, seconds: float) -> None:
        """Of the time of the kind that runs, the last seconds were spent on compiling."""
        self._turn(self._kind)
        self.seconds[self._kind] -= seconds
        self.seconds["compile"] += seconds

    @contextlib.contextmanager
    def compiling_noticed(self) -> Iterator[None]:
        """Inside the block, whatever this thread lets JAX compile counts as `compile`."""

        def listen(event: str, duration_secs: float, **_: str | int) -> None:
            if event == _COMPILED and threading.get_ident() == self._thread:
                self.compiled(duration_secs)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)

    def resume(self, records: Sequence[Mapping[str, Any]], *, step: int) -> None:
        """Adds the time of earlier starts of the run, which goes on from `step`.

        What they spent after that step is `lost`: the run takes those steps again.

        Args:
            records: of metrics.jsonl, the ones after `step` too.
        """
        own = [record for record in reversed(records) if record["split"] == SPLIT]
        every = read_record(own[0] if own else {})
        kept = read_record(next((record for record in own if record["step"] <= step), {}))
        for kind in KINDS:
            self.seconds[kind] += kept[kind]
        self.seconds["lost"] += max(0.0, sum(every.values()) - sum(kept.values()))

    def record(self) -> dict[str, float]:
        """`seconds/<kind>` up to now, their sum `seconds/wall`, and two shares.

        share: of the sum, what was spent on steps. loader_share: of the time of steps with their batches, what was
        spent on waiting for the batches.
        """
        self._turn(self._kind)
        wall = sum(self.seconds.values())
        record = {f"seconds/{kind}": spent for kind, spent in self.seconds.items()}
        step, data = self.seconds["step"], self.seconds["data"]
        return record | {
            "seconds/wall": wall,
            "share": step / wall if wall > 0 else 0.0,
            "loader_share": data / (step + data) if data > 0 else 0.0,
        }

    def _turn(self, kind: Kind) -> None:
        now = self._now()
        self.seconds[self._kind] += now - self._since
        self._kind, self._since = kind, now


def read_record(record: Mapping[str, Any]) -> dict[Kind, float]:
    """The seconds of each kind in a record; what is no number there is 0."""
    found = {kind: record.get(f"seconds/{kind}") for kind in KINDS}
    return {kind: float(value) if isinstance(value, int | float) else 0.0 for kind, value in found.items()}


def describe(record: Mapping[str, Any]) -> str:
    """`step 91.3%, compile 4.0%, ...`, without the kinds that took no time."""
    spent = read_record(record)
    wall = sum(spent.values())
    return ", ".join(f"{kind} {each / wall:.1%}" for kind, each in spent.items() if each > 0.0005 * wall)
