"""A signal is answered at once, and no step is on its way after a slow one."""

import ctypes
import os
import signal
import threading
import time
from typing import Any

from lacy_jax.training.stopping import SLOW_SECONDS, Stops, stop_requests


class Step:
    """A step's results, which are there once they were waited for; the clock is a list of one number."""

    def __init__(self, clock: list[float], seconds: float):
        self.clock, self.seconds, self.waits = clock, seconds, 0

    def block_until_ready(self) -> "Step":
        self.waits += 1
        self.clock[0] += self.seconds
        return self


def run(seconds: list[float]) -> tuple[Stops, list[int]]:
    """How often each of several steps was waited for."""
    clock = [0.0]
    stops = Stops(lambda _: False, now=lambda: clock[0])
    steps = [Step(clock, each) for each in seconds]
    for number, step in enumerate(steps):
        assert not stops.asked(number)
        stops.wait([step])
        clock[0] += 100.0  # a validation, or a save: no part of a step
    return stops, [step.waits for step in steps]


def test_slow_steps_are_waited_for_and_fast_ones_run_ahead() -> None:
    assert run([280.0] * 4)[1] == [1, 1, 1, 1]
    assert run([0.1] * 4)[1] == [1, 0, 0, 0]  # nothing is known of the first one
    assert run([SLOW_SECONDS, 0.5, 0.5])[1] == [1, 1, 0]


def test_the_answer_says_how_long_the_last_step_took() -> None:
    assert Stops(lambda _: False).describe(signal.SIGTERM) == "SIGTERM: saving after this step"
    assert run([280.2])[0].describe(signal.SIGTERM) == "SIGTERM: saving after this step, up to 281 s"
    assert run([280.2, 0.01])[0].describe(signal.SIGINT) == "SIGINT: saving after this step, up to 1 s"


def test_a_signal_is_answered_while_the_main_thread_is_in_the_devices_code() -> None:
    """Python's own handlers wait until it comes back: it may take minutes, here until it was answered."""
    libc = ctypes.CDLL(None, use_errno=True)
    mutex = ctypes.create_string_buffer(64)  # a pthread_mutex_t of zeros; no signal ends the wait for it
    said: list[str] = []

    def answer(line: str) -> None:
        said.append(line)
        libc.pthread_mutex_unlock(mutex)

    before = signal.getsignal(signal.SIGTERM)
    with stop_requests(answer) as stops:
        libc.pthread_mutex_lock(mutex)
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        limit = (ctypes.c_long * 2)(int(time.time()) + 60, 0)
        assert libc.pthread_mutex_timedlock(mutex, limit) == 0, "nobody answered"
        assert said == ["SIGTERM: saving after this step"]
        assert stops.asked(1)
        assert signal.getsignal(signal.SIGTERM) == before  # the second signal kills
    assert signal.set_wakeup_fd(-1) == -1
    assert not [thread for thread in threading.enumerate() if thread.name == "signals"]


def test_without_a_signal_nothing_is_said() -> None:
    said: list[str] = []
    with stop_requests(said.append) as stops:
        assert not stops.asked(1)
    assert said == []


def test_another_thread_than_the_main_one_has_no_handlers() -> None:
    found: list[Any] = []

    def train() -> None:
        with stop_requests(found.append) as stops:
            found.append(stops.asked(1))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join(60)
    assert found == [False]
