"""One client's connection: how long it may wait for a request's head, how many there may be, and what is logged of it.

uvicorn limits neither: its keep-alive time ends at a request's first byte.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from lacy_jax.errors import ConfigError

HEAD_SECONDS = 10.0  # for a request's head, from the connection's start or its first byte; also for a body nobody wants
ACCEPTED_AT_ONCE = 16  # connections that the event loop takes on before it looks at any of them
SPARE_FILES = 64  # descriptors kept for those, for files and for a partner's connections
QUIET_SECONDS = 5.0  # between two lines of one kind in the log
_FULL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 1\r\n\r\n"


@dataclass
class Connections:
    """What the connections of a server share.

    most: how many there may be at once. waiting: those without a request under way, the longest waiting one first.
    """

    most: int
    waiting: "dict[Connection, None]" = field(default_factory=dict)

    def protocol(self, **given: Any) -> "Connection":
        """A new connection; for uvicorn's `Config(http=...)`."""
        return Connection(self, **given)


class Connection(H11Protocol):
    """uvicorn's connection within limits.

    Where there are too many, the one that has waited longest for a request is closed, so that clients who open
    connections and send nothing keep nobody out. If all have requests under way, the new one is answered 503.
    """

    def __init__(self, shared: Connections, **given: Any):
        super().__init__(**given)
        self._shared = shared
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._update()
        if len(self.connections) > self._shared.most:
            longest = next(iter(self._shared.waiting))
            if longest is self:
                transport.write(_FULL)
                transport.close()
            else:
                longest.transport.abort()
            longest._forget()

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except h11.ProtocolError:  # nonsense after an answer has begun: no second one can be given
            self.transport.abort()
        self._update()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _update(self) -> None:
        """Notes whether a request is under way; starts or ends the time that its head has."""
        if self.transport.is_closing():
            self._forget()
        elif self.cycle is not None and not self.cycle.response_complete:
            self._shared.waiting.pop(self, None)
            self._end_timer()
        else:
            self._shared.waiting.setdefault(self)
            if self._head_timer is None and self.timeout_keep_alive_task is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _forget(self) -> None:
        self._shared.waiting.pop(self, None)
        self.connections.discard(self)
        self._end_timer()

    def _end_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def most_connections(asked: int) -> int:
    """How many connections a server takes: as many as asked for, or fewer where this process may open too few files.

    Raises:
        ConfigError: it may open too few for any.
    """
    try:
        import resource
    except ImportError:  # Windows
        return asked
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    left = allowed - len(os.listdir("/dev/fd")) - SPARE_FILES
    if left < 1:
        raise ConfigError(f"this process may open {allowed} files, too few to serve; raise the limit (ulimit -n 1024)")
    return min(asked, left)


class Quiet(logging.Filter):
    """Lets one line of a kind through in `QUIET_SECONDS`, and says how many it left out: clients can cause any number.

    A kind is a message before its arguments are put in.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic):
        super().__init__()
        self._now = now
        self._last: dict[str, tuple[float, int]] = {}  # kind -> when it was last said, how many were left out since

    def filter(self, record: logging.LogRecord) -> bool:
        kind = str(record.msg)
        said, left_out = self._last.get(kind, (float("-inf"), 0))
        if self._now() - said < QUIET_SECONDS:
            self._last[kind] = (said, left_out + 1)
            return False
        self._last[kind] = (self._now(), 0)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more like it)", ()
        return True
