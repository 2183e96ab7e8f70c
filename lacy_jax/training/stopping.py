"""Stopping in good order: SIGTERM (preemption, a time limit) or Ctrl-C, agreed on by all processes of a run."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Gives `asked(step)`, to be called after every step: whether to save that step and return.

    Alone, a process stops after the step under way, and a second signal kills it. Of several, it is enough that one is
    signalled: JAX's preemption service, which holds SIGTERM since `jax.distributed.initialize`, lets all of them stop
    after the same step, the one that follows the furthest. A question costs no communication.
    """
    if jax.process_count() > 1:
        with _handlers({signal.SIGINT: lambda *_: signal.raise_signal(signal.SIGTERM)}):
            yield multihost_utils.reached_preemption_sync_point
        return
    stop = threading.Event()

    def request(number: int, _frame: Any) -> None:
        stop.set()
        signal.signal(number, previous[number])

    with _handlers({signal.SIGTERM: request, signal.SIGINT: request}) as previous:
        yield lambda _step: stop.is_set()


@contextlib.contextmanager
def _handlers(handlers: dict[int, Any]) -> Iterator[dict[int, Any]]:
    """Signal handlers for a while; gives those before. Only a program's main thread may have any."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    previous = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield previous
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
