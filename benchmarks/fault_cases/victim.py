"""A door that is killed with SIGKILL some milliseconds after it came to a certain point:

    python -m benchmarks.fault_cases.victim STAGE CALL MILLISECONDS NOTES DOOR FLAGS...

The point is the CALL-th call of the stage's function. NOTES is a file, to which the seconds are added that went by from
the start to the first step that was done.
"""

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A stage -> the function that is called in it, as module:name, and of which calls one is chosen.
# The second save is the one to be killed: then there is a first one to resume from.
STAGES = {
    "import": ("", range(1, 2)),
    "annotate": ("lacy_jax.data.datasets:_annotated_record", range(1, 241)),
    "tokenize": ("lacy_jax.data.prepare:train_tokenizer", range(1, 2)),
    "pack": ("lacy_jax.data.pack:factual_tokens", range(1, 241)),
    "compile": ("lacy_jax.training.loop:compile_train_step", range(1, 2)),
    "step": ("lacy_jax.training.run_log:training_record", range(1, 7)),
    "validation": ("lacy_jax.training.loop:validation_record", range(1, 2)),
    "saving": ("lacy_jax.training.checkpoints:Checkpoints.save", range(2, 3)),
    "resume": ("lacy_jax.training.checkpoints:Checkpoints.restore", range(1, 2)),
}
_FIRST_STEP = "lacy_jax.training.run_log:training_record"


def main(stage: str, call: int, *, milliseconds: float, notes: Path, door: str) -> None:
    started = time.monotonic()

    def kill() -> None:
        threading.Timer(milliseconds / 1000, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def note() -> None:
        with notes.open("a") as file:
            file.write(f"{time.monotonic() - started:.2f}\n")

    if not STAGES[stage][0]:
        kill()
    _before(_FIRST_STEP, note, call=1)
    if STAGES[stage][0]:
        _before(STAGES[stage][0], kill, call=call)
    doors = importlib.import_module("lacy_jax.doors")
    doors.run(importlib.import_module(f"lacy_jax.{door}").DOOR)


def _before(place: str, act: Callable[[], None], *, call: int) -> None:
    """Lets `act` be done at the start of the call of that number."""
    module, _, path = place.partition(":")
    *outer, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in outer:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), iter(range(1, sys.maxsize))

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            act()
        return function(*args, **kwargs)

    setattr(owner, name, counted)


if __name__ == "__main__":
    _, _stage, _call, _milliseconds, _notes, _door, *_words = sys.argv
    sys.argv = [_door, *_words]
    main(_stage, int(_call), milliseconds=float(_milliseconds), notes=Path(_notes), door=_door)
