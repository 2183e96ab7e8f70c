"""A trace of some steps of a run, by jax.profiler; docs/training.md shows how to open it.

A door reads its flag by this, so JAX is imported only where steps are taken.
"""

import dataclasses
from typing import Annotated, Any

from pydantic import BeforeValidator

from lacy_jax.config import Config
from lacy_jax.paths import is_bucket

PROFILE_FOLDER = "profile"


@dataclasses.dataclass(frozen=True)
class Steps:
    """Steps of a run, from 1: the first and the last one."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"


def read_steps(text: Any) -> Steps:
    """`10:12`; raises `ValueError`."""
    first, colon, last = str(text).partition(":")
    if not (colon and first.isascii() and first.isdecimal() and last.isascii() and last.isdecimal()):
        raise ValueError("write the first and the last step, as 10:12")
    if not 1 <= int(first[:18]) <= int(last[:18]):
        raise ValueError("the first step is 1 or later, and not after the last one")
    return Steps(int(first[:18]), int(last[:18]))


Given = Annotated[Steps, BeforeValidator(read_steps)]  # the type of a flag


def steps_problem(steps: Steps | None, config: Config, *, workdir: str) -> str:
    """The line about steps that cannot be traced in a run of these settings; "" where there is nothing to say."""
    limit = config.training.steps
    if steps is None:
        return ""
    if is_bucket(workdir):
        return f"--profile_steps={steps}: a trace goes to a disk, and --workdir={workdir} is a bucket"
    if not limit or steps.last <= limit:
        return ""
    return f"--profile_steps={steps}: the run ends at step {limit:,} (config.training.steps)"


class Profiler:
    """Traces steps into `folder`; steps that were taken before this start of the run are left out."""

    def __init__(self, steps: Steps | None, *, folder: str):
        self.steps, self.folder = steps, folder
        self.state = "waiting" if steps else "nothing"  # then "tracing", "done"

    def before(self, step: int) -> Any:
        """To be called before a step, with its number: the context to take it in."""
        import jax

        if self.state == "waiting" and self.steps and self.steps.first <= step <= self.steps.last:
            jax.profiler.start_trace(self.folder)
            self.state = "tracing"
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def after(self, step: int, results: Any) -> None:
        """To be called after it. Waits for the results of the last step to be traced."""
        import jax

        if self.state == "tracing" and self.steps and step >= self.steps.last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that is under way; of a run that stops in the middle, it holds the steps so far."""
        if self.state == "tracing":
            import jax

            self.state = "done"
            jax.profiler.stop_trace()
