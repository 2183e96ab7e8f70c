"""Requests that are no requests, and clients that open connections and send half of one."""

import contextlib
import json
import random
import socket
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from benchmarks.fault_cases.common import Outcome, Row, Scene, Sizes, door_command

HALF = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le"
RIGHT = {"model": "tiny", "prompt": "Who?", "max_tokens": 4, "temperature": 0}
_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    10**400,
    "",
    "\ud800",
    "\0",
    [],
    [[]],
    {},
    [None],
    {"a": []},
    "x" * 5000,
]
_FIELDS = ["model", "prompt", "max_tokens", "temperature", "top_p", "n", "stop", "stream", "logprobs", "seed", "budget"]


def requests(scene: Scene, sizes: Sizes) -> Iterator[Row]:
    """Malformed requests: each gets 400, 413 or another 4xx, or its connection is closed; a right one is answered."""
    with _serving(scene) as (port, said):
        before, rng = _answer(port), random.Random(0)
        outcomes = [_malformed(port, rng) for _ in range(sizes.requests)]
        outcomes += ["survived" if _answer(port) == before else "lost"]
    yield Row("malformed request", [*outcomes, *_log(said)])


def connections(scene: Scene, sizes: Sizes) -> Iterator[Row]:
    """Connections that stay open with half a header: a right request is answered meanwhile."""
    with _serving(scene) as (port, said), contextlib.ExitStack() as stack:
        before, outcomes, seconds = _answer(port), list[Outcome](), list[float]()
        for number in range(sizes.connections):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(HALF)
            if number % 50 == 49:
                started = time.monotonic()
                same = _answer(port) == before
                seconds.append(time.monotonic() - started)
                outcomes += ["survived" if same else "lost"] * 50
    yield Row("open connection with half a header", [*outcomes, *_log(said)], seconds, "of a right request meanwhile")


@contextlib.contextmanager
def _serving(scene: Scene) -> Iterator[tuple[int, list[str]]]:
    """A server of the export: its port, and when it has ended what it said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    said: list[str] = []
    words = [f"--checkpoint={scene.export}", "--partner=none", f"--port={port}", "--model_name=tiny"]
    log = scene.folder / "server.txt"
    with (
        log.open("w") as file,
        scene.started(door_command("serve", *words), stderr=file) as server,
    ):
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                    if answer.status == 200:
                        break
                time.sleep(0.2)
            yield port, said
        finally:
            server.terminate()
            server.wait(60)
            said.append(log.read_text(errors="replace"))


def _log(said: list[str]) -> list[Outcome]:
    return ["traceback"] * "".join(said).count("Traceback")


def _answer(port: int) -> str:
    body = json.dumps(RIGHT).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.loads(answer.read())["choices"][0]["text"])


def _malformed(port: int, rng: random.Random) -> Outcome:
    """Sends one, and looks at the status: 4xx is clear, 5xx or none within the time is not."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(_bytes(rng))
            client.shutdown(socket.SHUT_WR)
            status = client.recv(4096).partition(b"\r\n")[0].split(b" ")[1:2]
    except TimeoutError:
        return "traceback"
    except OSError:  # closed while it was sent
        return "clear"
    if not status or status[0].startswith(b"4"):
        return "clear"
    return "survived" if status[0].startswith(b"2") else "traceback"


def _bytes(rng: random.Random) -> bytes:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 400))
    body = json.dumps(RIGHT | {rng.choice(_FIELDS): rng.choice(_VALUES) for _ in range(rng.randint(1, 3))}).encode()
    if kind == 1:
        body = body[: rng.randrange(len(body))]
    elif kind == 2:
        body = b"[" * rng.randrange(1, 50_000)
    elif kind == 3:
        changed = bytearray(body)
        changed[rng.randrange(len(changed))] = rng.randrange(256)
        body = bytes(changed)
    method = rng.choice(["POST", "POST", "POST", "PUT", "GET", "BREW"])
    length = rng.choice([len(body), len(body), len(body) + 9, -1, 10**20])
    head = [f"{method} /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    return "\r\n".join([*head, f"Content-Length: {length}", "", ""]).encode() + body
