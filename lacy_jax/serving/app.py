"""The routes."""

import asyncio
import base64
import contextlib
import hashlib
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lacy_jax.serving import answers, metrics, schema
from lacy_jax.serving.answers import Envelope
from lacy_jax.serving.chat import Chat
from lacy_jax.serving.errors import ApiError
from lacy_jax.serving.gate import Gate, error_response
from lacy_jax.serving.metrics import Measured, Metrics
from lacy_jax.serving.schema import Asked
from lacy_jax.serving.service import Finished, Job, Service
from lacy_jax.serving.settings import Settings
from lacy_jax.serving.worker import Worker

T = TypeVar("T")

BODY_SECONDS = 30.0  # for a client to send its request
WORKER_SECONDS = 5.0  # for the worker to finish its round when the server ends

_log = logging.getLogger(__name__)


def make_app(
    worker: Worker,
    settings: Settings,
    *,
    count_tokens: Callable[[str], int],
    chat: Chat | None = None,
    partner: Measured | None = None,
) -> Starlette:
    """The server as an ASGI application. It starts the worker, and stops it at its own end.

    Args:
        worker: a worker that was not started yet.
        settings: limits, key, and what is said of the cascade.
        count_tokens: SLM tokens of a prompt; called in a thread.
        chat: how the SLM's conversations are opened; None: it is no model for them. Closed at the end.
        partner: whose numbers /metrics shows.
    """
    measured = Metrics(partner=partner)
    service = Service(worker, settings, measured)
    routes = _Routes(service, settings, measured, count_tokens, chat=chat)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        worker.start()
        yield
        await run_in_threadpool(worker.stop, timeout=WORKER_SECONDS)
        if chat is not None:
            await run_in_threadpool(chat.close)

    app = Starlette(
        routes=[
            Route("/", routes.page),
            Route("/health", routes.health),
            Route("/metrics", routes.metrics),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/v1/completions", routes.completions, methods=["POST"]),
            Route("/v1/chat/completions", routes.chat_completions, methods=["POST"]),
        ],
        middleware=[Middleware(Gate, settings=settings, metrics=measured)],
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _unexpected,
        },
        lifespan=lifespan,
    )
    app.state.service, app.state.worker = service, worker
    return app


class _Routes:
    def __init__(
        self,
        service: Service,
        settings: Settings,
        measured: Metrics,
        count_tokens: Callable[[str], int],
        *,
        chat: Chat | None,
    ):
        self._chat = chat
        self._service = service
        self._settings = settings
        self._metrics = measured
        self._count_tokens = count_tokens
        self._created = int(time.time())
        self._page = resources.files("lacy_jax.serving").joinpath("page.html").read_text(encoding="utf-8")
        self._page_headers = {"Content-Security-Policy": page_policy(self._page), "Referrer-Policy": "no-referrer"}

    async def page(self, _: Request) -> Response:
        return HTMLResponse(self._page, headers=self._page_headers)

    async def health(self, _: Request) -> Response:
        state = self._service.state
        body = {"status": "ok" if state == "ready" else state, "round_seconds": round(self._service.round_seconds(), 3)}
        return JSONResponse(body, status_code=200 if state == "ready" else 503)

    async def metrics(self, _: Request) -> Response:
        return Response(self._metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model_json()]})

    async def model(self, request: Request) -> Response:
        if request.path_params["name"] != self._settings.model:
            message = f"The model {request.path_params['name'][:200]!r} does not exist"
            raise ApiError(404, message, param="model", code="model_not_found")
        return JSONResponse(self._model_json())

    def _model_json(self) -> dict[str, Any]:
        own = self._settings
        lacy = {"partner": own.partner, "budget": own.budget, "max_tokens": own.max_tokens}
        return {"id": own.model, "object": "model", "created": self._created, "owned_by": "lacy_jax", "lacy": lacy}

    async def completions(self, request: Request) -> Response:
        began = time.monotonic()
        asked = schema.parse(await _body(request, limit=self._settings.max_body_bytes), self._settings)
        prompt_tokens = await run_in_threadpool(lambda: sum(map(self._count_tokens, asked.prompts)))
        return await self._answer(request, asked, answers.COMPLETION, began=began, prompt_tokens=prompt_tokens)

    async def chat_completions(self, request: Request) -> Response:
        began, chat = time.monotonic(), self._chat
        body = await _body(request, limit=self._settings.max_body_bytes)
        if chat is None:
            raise ApiError(400, "this model has no chat template; ask /v1/completions", code="no_chat_template")
        asked = schema.parse_chat(body, self._settings)
        opening = await run_in_threadpool(chat.open, asked.messages)
        prompt_tokens = await run_in_threadpool(chat.count, opening)
        asked = asked.opened(opening)
        return await self._answer(request, asked, answers.CHAT, began=began, prompt_tokens=prompt_tokens)

    async def _answer(
        self, request: Request, asked: Asked, form: answers.Form, *, began: float, prompt_tokens: int
    ) -> Response:
        identity = f"{form.prefix}-{secrets.token_hex(12)}"
        envelope = Envelope(form, identity, int(time.time()), self._settings.model)
        job = await self._service.start(asked.rows, began=began)
        self._metrics.count_prompt(prompt_tokens)
        headers = {"X-Request-Id": envelope.id}
        if asked.stream:
            events = self._events(job, asked, envelope, prompt_tokens)
            return _EventStream(events, headers=headers, close=lambda: self._service.close(job))
        try:
            finished = await _unless_gone(request, self._collect(job))
        finally:
            self._service.close(job)
        choices = [
            answers.choice_json(form, index, finished[index], prefix=row.prompt if asked.echo else "")
            for index, row in enumerate(asked.rows)
        ]
        usage = answers.usage_json(prompt_tokens, finished.values())
        return JSONResponse(envelope.wrap(choices, usage=usage), headers=headers)

    async def _collect(self, job: Job) -> dict[int, Finished]:
        news = self._service.follow(job)
        return {each.choice: each.finished async for each in news if each.finished is not None}

    async def _events(self, job: Job, asked: Asked, envelope: Envelope, prompt_tokens: int) -> AsyncIterator[bytes]:
        """The stream. An error in its middle is an event of its own, and no [DONE] follows it, as OpenAI does."""
        extra = {"usage": None} if asked.include_usage else {}
        to_echo = {index: row.prompt for index, row in enumerate(asked.rows)} if asked.echo else {}
        sent: dict[int, int] = {}  # choice -> pieces
        finished: list[Finished] = []
        try:
            async for news in self._service.follow(job):
                before, prefix = sent.get(news.choice), to_echo.pop(news.choice, "")
                sent[news.choice] = (before or 0) + len(news.pieces)
                choice = answers.chunk_json(envelope.form, news, before=before, prefix=prefix)
                yield answers.event(envelope.wrap_part([choice], **extra))
                if news.finished is not None:
                    finished.append(news.finished)
        except ApiError as error:
            yield answers.event(error.body)
            return
        if asked.include_usage:
            yield answers.event(envelope.wrap_part([], usage=answers.usage_json(prompt_tokens, finished)))
        yield answers.DONE


class _EventStream(StreamingResponse):
    """A stream that closes its job however it ends, also where the client has gone."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], *, headers: dict[str, str], close: Callable[[], None]):
        super().__init__(events, headers={**headers, "X-Accel-Buffering": "no"})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def _body(request: Request, *, limit: int) -> bytes:
    """The request's JSON. Another content type is refused: a web page could send it without asking first."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "send the request as Content-Type: application/json")
    too_large = ApiError(413, f"the body is too large; allowed are {limit} bytes", code="body_too_large")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:.0f} s") from None
    return bytes(body)


async def _unless_gone(request: Request, work: Any) -> Any:
    """The result of `work`, which is cancelled where the client disconnects first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body has been read: all that can still come
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def page_policy(page: str) -> str:
    """The Content-Security-Policy of the page: its own script and style, by their hashes, and its own server."""

    def hashes(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = error_response(ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))
    answer.headers.update(error.headers or {})
    return answer


async def _gone(_request: Request, _error: Exception) -> Response:
    """Nobody reads it. The number is nginx' for a client that left."""
    return Response(status_code=499)


async def _unexpected(request: Request, _: Exception) -> Response:
    """Starlette raises it again afterwards, so that the server's log has the traceback."""
    return error_response(ApiError(500, f"{request.method} {request.url.path}: the server failed; see its log"))
