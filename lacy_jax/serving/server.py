"""The process: a socket, uvicorn, signals."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from lacy_jax.cascade import Cascade
from lacy_jax.errors import ConfigError
from lacy_jax.serving.app import make_app
from lacy_jax.serving.chat import Chat
from lacy_jax.serving.connections import ACCEPTED_AT_ONCE, Connections, Quiet, most_connections
from lacy_jax.serving.service import Service
from lacy_jax.serving.settings import Settings
from lacy_jax.serving.worker import Worker

CLOSE_SECONDS = 5  # for answers that are complete to reach their clients
BACKLOG = 1024  # connections that the system holds until they are taken on

_log = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """At the first signal it refuses new requests and lets the others end, for `grace_seconds`; at the second it ends.

    uvicorn's own way would refuse connections, where a client is better answered 503, and would end rows in the middle.
    """

    def __init__(self, config: uvicorn.Config, *, service: Service, grace_seconds: float):
        super().__init__(config)
        self._service = service
        self._grace_seconds = grace_seconds
        self._deadline = float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets the system hold BACKLOG connections.

        asyncio is given a smaller number: it takes on that many at once, before it looks at any of them.
        """
        await super().startup(sockets)
        for each in sockets or []:
            each.listen(BACKLOG)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Called in the main thread, between two of the event loop's steps."""
        if self._service.draining:
            self._deadline = 0.0
            return
        self._service.draining = True
        self._deadline = time.monotonic() + self._grace_seconds
        _log.warning(
            "%s: finishing %d open rows, for at most %g s",
            signal.Signals(sig).name,
            self._service.open_rows,
            self._grace_seconds,
        )

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        self._service.end_lost()
        if self._service.draining:
            overdue = time.monotonic() > self._deadline
            if overdue:
                self._service.abort("the server is shutting down")
            self.should_exit = overdue or not self._service.open_rows
        return await super().on_tick(counter)


def model_name(checkpoint: str) -> str:
    """The name of a checkpoint's folder, without what only says which step of it."""
    parts = [part for part in Path(checkpoint).resolve().parts if part != "checkpoints" and not part.isdecimal()]
    return parts[-1]


def partner_kind(spec: str) -> str:
    """What clients may know of a partner: not where it lies, nor its path."""
    kind = spec.partition(":")[0]
    return "checkpoint" if kind == spec and os.path.exists(spec) else kind


def bind(settings: Settings) -> socket.socket:
    """A bound socket that does not listen yet: a port that is taken is found before the model is loaded.

    Raises:
        ConfigError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ConfigError(f"--host={settings.host} --port={settings.port}: {error.strerror or error}") from None
    return bound


def make_server(app: Starlette, settings: Settings) -> DrainingServer:
    """uvicorn with the parts that are always there: asyncio and h11.

    Raises:
        ConfigError: see `most_connections`.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Connections(most_connections(settings.max_connections)).protocol,  # type: ignore[arg-type]
        backlog=ACCEPTED_AT_ONCE,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    return DrainingServer(config, service=app.state.service, grace_seconds=settings.grace_seconds)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def serve(cascade: Cascade, settings: Settings, *, bound: socket.socket) -> int:
    """Serves a cascade until a signal ends it; returns the exit status, 1 where it could not start.

    Ends the whole process with that status by itself, where a thread cannot be stopped.
    """
    host, port = bound.getsockname()[:2]
    if not settings.loopback and not settings.api_key:
        _log.warning("listening on %s without a key: whoever reaches this machine can use it; set LACY_API_KEY", host)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    guard = cascade.partner
    scheduler = cascade.scheduler(slots=settings.batch_size)
    failed = False

    def warm_up() -> None:
        nonlocal failed
        began = time.monotonic()
        _say(f"listening at {url}; compiling what requests will need, until then /health says starting")
        try:
            programs = scheduler.warm_up()
        except BaseException:
            failed = server.should_exit = True  # nothing would ever be answered
            raise
        _say(f"{programs} programs, {time.monotonic() - began:.0f} s")
        _say(f"serving {settings.model} at {url} (Ctrl+C ends it)")

    app = make_app(
        Worker(scheduler, warm_up=warm_up),
        settings,
        count_tokens=lambda text: len(cascade.tokenizer.encode(text)),
        chat=Chat(cascade.chat, cascade.tokenizer) if cascade.chat else None,
        partner=guard,
    )
    server = make_server(app, settings)
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(Quiet())
    server.run(sockets=[bound])
    if threading.active_count() > 1:
        # A round on the device, or a partner that hangs. Python ends badly while foreign code runs in a thread.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(failed))
    return int(failed)
