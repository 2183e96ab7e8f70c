"""A judge on loopback that speaks chat completions, true to the interface, for tests: it knows what it is told."""

import asyncio
import collections
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

HANG = Response()
Answer = Callable[[str, int], str | Response]
"""Of (prompt, how many times it came): the judge's words, or a whole response, or HANG: none while the client waits."""


class JudgeServer:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.url = ""

    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        prompt = body["messages"][0]["content"]
        assert request.headers["content-type"] == "application/json"
        assert [message["role"] for message in body["messages"]] == ["user"]
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.counts[prompt] += 1
        said = self.answer(prompt, self.counts[prompt])
        while said is HANG and not await request.is_disconnected():
            await asyncio.sleep(0.01)
        if isinstance(said, Response):
            return said
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return JSONResponse(
            {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice],
             "usage": usage}
        )  # fmt: skip


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[JudgeServer]:
    judge = JudgeServer(answer)
    app = Starlette(routes=[Route("/v1/chat/completions", judge.complete, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        judge.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield judge
        finally:
            server.should_exit = True
            thread.join()
