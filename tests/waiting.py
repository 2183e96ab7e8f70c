"""Waiting for what comes in the end, however busy the machine is."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool]) -> None:
    """Waits for what comes in the end; a minute without it is a failure."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
