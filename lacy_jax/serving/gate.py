"""What every request passes first: the key, the host it was sent to, the count of answers."""

import asyncio
import contextlib
import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lacy_jax.serving.errors import ApiError
from lacy_jax.serving.metrics import Metrics
from lacy_jax.serving.settings import Settings

_OPEN = ("/", "/health")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
UNWANTED_SECONDS, UNWANTED_BYTES = 10.0, 1 << 26  # of a body that is refused: how much of it is read and thrown away
_ROUTES = ("/", "/health", "/metrics", "/v1/completions", "/v1/chat/completions", "/v1/models")


class Gate:
    """ASGI middleware.

    With a key: all but the page and /health need it. Without one on the loopback: only requests sent to a local
    name are answered, so that no web page reaches the server by pointing its own name at 127.0.0.1.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics):
        self._app = app
        self._metrics = metrics
        self._key = _digest(settings.api_key) if settings.api_key else None
        self._names = (*_LOCAL_NAMES, settings.host) if settings.loopback and not settings.api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        route = path if path in _ROUTES else "/v1/models" if path.startswith("/v1/models/") else "other"

        body = _Body(receive, scope)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                await body.discard()
                self._metrics.requests.labels(route, str(message["status"])).inc()
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        error = self._refusal(path, Headers(scope=scope))
        app = self._app if error is None else error_response(error)
        await app(scope, body.receive, counted)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        if self._names is not None and _host_name(headers.get("host", "")) not in self._names:
            message = "this server answers local names only; set an API key to reach it by another name"
            return ApiError(403, message, code="host_not_allowed")
        if self._key is None or path in _OPEN:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(given.strip()), self._key):
            return None
        message = "no API key given; send it as 'Authorization: Bearer KEY'" if not scheme else "incorrect API key"
        return ApiError(401, message, code="invalid_api_key")


class _Body:
    """A request's body on its way."""

    def __init__(self, receive: Receive, scope: Scope):
        self._receive = receive
        # A client with this header sends its body only when it is asked for.
        self._ended = any(name == b"expect" for name, _ in scope["headers"])

    async def receive(self) -> Message:
        message = await self._receive()
        self._ended = not message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Reads what is left of it: a client that is still sending would lose an answer that closes the connection."""
        left = UNWANTED_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNWANTED_SECONDS):
                while not self._ended and left > 0:
                    left -= len((await self.receive()).get("body", b""))


def error_response(error: ApiError) -> JSONResponse:
    """The answer that shows a client an error."""
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


def _digest(key: str) -> bytes:
    """Of the same length for all keys, so that the time of comparing shows nothing of the key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
