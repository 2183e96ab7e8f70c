"""A partner behind a server with the OpenAI interface for completions: vLLM, llama.cpp, TGI, our own.

Every text is a request of its own, so that one that fails costs nothing to the others; several run at once, in one
asyncio loop in a thread. See https://platform.openai.com/docs/api-reference/completions for the interface.
"""

import asyncio
import collections
import contextlib
import email.utils
import json
import logging
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from lacy_jax.cascade.text.extent import complete_extent
from lacy_jax.config import Span
from lacy_jax.errors import PartnerError

# How many tokens are asked for: first, and once more where the answer's end was not among them.
MAX_TOKENS: dict[Span, tuple[int, int]] = {"token": (1, 8), "word": (8, 24), "phrase": (24, 64)}
CONCURRENT = 16  # requests at once
# About 1,000 tokens of English: fits into the context of any server. `?max_characters=` in the address changes it.
MAX_CHARACTERS = 4_000
MAX_RESPONSE_BYTES = 1_000_000
MOST_TRIES = 4
BACKOFF_SECONDS = 0.25  # before the second try; doubled before each further one, times 0.5 to 1.5
CONNECT_SECONDS = 2.0
PROBE_SECONDS = 3.0
IN_TIME = 0.9  # of the timeout: the rest is for handing over what is there
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
KEYS = ("LACY_PARTNER_API_KEY", "OPENAI_API_KEY")

_log = logging.getLogger(__name__)


class _Failure(Exception):
    """A text that goes unanswered; the message is the reason that is counted, without anything secret."""


@dataclass(frozen=True)
class Address:
    """Where a server is. `url` ends without a slash, in "/v1" as a rule; an empty `model` is asked of the server."""

    url: str
    model: str = ""
    max_characters: int = MAX_CHARACTERS


def parse_address(spec: str, *, role: str = "partner", keys: Sequence[str] = KEYS) -> Address:
    """Reads "http://host:port/v1?max_characters=4000#model". `role` and `keys` only word the errors.

    Raises:
        PartnerError: it is none.
    """
    form = "http://HOST:PORT/v1[?max_characters=N][#MODEL]"
    try:
        parts = urllib.parse.urlsplit(spec)
        secret = parts.username is not None or parts.password is not None
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        characters = int(query.pop("max_characters", MAX_CHARACTERS))
        httpx.URL(spec)  # what a host may be called
    except (ValueError, httpx.InvalidURL) as error:
        shown = "" if "@" in spec else f" {spec!r}"
        raise PartnerError(f"cannot read the {role}'s address{shown}; it has the form {form}") from error
    if secret:
        raise PartnerError(f"no name or password in a {role}'s address; set the environment variable {keys[0]}")
    if not good or query or characters < 1:
        raise PartnerError(f"cannot read the {role}'s address {spec!r}; it has the form {form}")
    url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    return Address(url=url, model=urllib.parse.unquote(parts.fragment), max_characters=characters)


def api_key(keys: Sequence[str] = KEYS) -> str:
    """The key from the first of these environment variables that is set, "" for none.

    Raises:
        PartnerError: it could not be sent; the message does not show it.
    """
    variable = next((name for name in keys if os.environ.get(name)), keys[0])
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise PartnerError(f"the environment variable {variable} holds characters that no key has")
    return key


def fitted(text: str, *, max_characters: int) -> str:
    """The end of a text, from the first line, sentence or word on that lets it fit."""
    start = len(text) - max_characters
    if start <= 0:
        return text
    for border in ("\n", ". ", " "):
        found = text.find(border, start - 1, start + max_characters // 4)
        if found >= 0:
            return text[found + len(border) :]
    return text[start:]


def written_of(body: bytes) -> tuple[str, bool]:
    """(what the server wrote, whether it has no more to say) of a response to /completions.

    Raises:
        _Failure: it has no such thing.
    """
    try:
        choice = json.loads(body)["choices"][0]
        text, finish = choice["text"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _Failure("not a completion") from error
    if not isinstance(text, str):
        raise _Failure("not a completion")
    return text, isinstance(finish, str) and finish != "length"


class HttpPartner:
    """Greedy pieces from a server; see this module's first lines.

    The server is asked for its models once, here, and that may fail: llama.cpp and proxies of its kind may lack that
    list, and a server may be started later than we are. So there is only a warning, and the list is asked for again
    with each question until the server answers. A server that cannot be reached gets several tries a text, then,
    until it is back, one.
    """

    def __init__(self, address: Address, *, span: Span = "word", timeout: float = 30.0, name: str = ""):
        """`timeout`: seconds for all of a question, retries included; what is not there by then is "".

        Raises:
            PartnerError: the key in the environment cannot be one.
        """
        self.name = name or address.url
        self._address, self._span, self._seconds = address, span, timeout * IN_TIME
        key = api_key()
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._model, self._listed, self._away = address.model, bool(address.model), False
        self._failures: collections.Counter[str] = collections.Counter()
        self._warned = False  # of a server that is not there yet
        # The environment may name a proxy, which has no way to this machine's own servers.
        host = urllib.parse.urlsplit(address.url).hostname or ""
        local = host in ("localhost", "::1") or host.startswith("127.")
        self._client = httpx.AsyncClient(headers=headers, trust_env=not local, follow_redirects=False)
        self._gate = asyncio.Semaphore(CONCURRENT)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name=f"partner {self.name}", daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._list_models(), self._loop).result()

    @property
    def failures(self) -> dict[str, int]:
        """How many texts went unanswered for which reason, so far."""
        return dict(self._failures)

    def complete(self, texts: Sequence[str]) -> list[str]:
        """See `Partner.complete`. "" where the server ends its text, and for each text that it fails on."""
        return asyncio.run_coroutine_threadsafe(self._complete(texts), self._loop).result()

    def close(self) -> None:
        """Ends the thread and the connections; nothing may be asked afterwards."""
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _complete(self, texts: Sequence[str]) -> list[str]:
        if not texts:
            return []
        deadline = time.monotonic() + self._seconds
        if not self._listed:
            await self._list_models()
        tasks = [asyncio.create_task(self._answer(text, deadline=deadline)) for text in texts]
        _, late = await asyncio.wait(tasks, timeout=max(0.0, deadline - time.monotonic()))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return [self._piece(task) for task in tasks]

    def _piece(self, task: "asyncio.Task[str]") -> str:
        """A task's piece, and "" where it failed, which is counted and, the first time, logged."""
        try:
            return task.result()
        except asyncio.CancelledError:
            reason = "late"
        except _Failure as error:
            reason = str(error)
        except Exception as error:  # whatever httpx may raise besides; its message might hold a header
            reason = type(error).__name__
        self._failures[reason] += 1
        if self._failures[reason] == 1:
            _log.warning("partner %s: a text goes unanswered: %s (further ones are only counted)", self.name, reason)
        return ""

    async def _answer(self, text: str, *, deadline: float) -> str:
        prompt = fitted(text, max_characters=self._address.max_characters)
        for attempt, tokens in enumerate(MAX_TOKENS[self._span]):
            written, ended = await self._written(prompt, tokens=tokens, deadline=deadline)
            if text[-1:].isspace():
                written = written.lstrip(" ")
            # Where one token was not a whole character, nobody tells where the second one ended.
            span = "word" if self._span == "token" and attempt else self._span
            piece = complete_extent(written, span=span, ended=ended)
            if piece is not None:
                if "\ufffd" in piece:
                    raise _Failure("broken characters")
                return piece
        raise _Failure("no end of the answer in sight")

    async def _written(self, prompt: str, *, tokens: int, deadline: float) -> tuple[str, bool]:
        """What the server writes, by as many tries as it takes and time allows."""
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": False}
        content = json.dumps({"model": self._model} | body if self._model else body).encode()
        for tried in range(1, MOST_TRIES + 1):
            pause = BACKOFF_SECONDS * 2 ** (tried - 1) * random.uniform(0.5, 1.5)
            try:
                status, headers, answer = await self._request("POST", "completions", content, deadline=deadline)
            except httpx.TransportError as error:
                reason = type(error).__name__
                unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if unreachable and self._away:
                    break
                self._away = self._away or (unreachable and tried == MOST_TRIES)
            else:
                self._away = False
                if status == 200:
                    return written_of(answer)
                reason = f"status {status}"
                if status not in RETRIED:
                    break
                pause = max(pause, retry_after(headers.get("Retry-After", "")))
            if tried == MOST_TRIES or time.monotonic() + pause >= deadline:
                break
            await asyncio.sleep(pause)
        raise _Failure(reason)

    async def _request(
        self, method: str, path: str, content: bytes | None = None, *, deadline: float
    ) -> tuple[int, httpx.Headers, bytes]:
        """(status, headers, body). Raises _Failure where the body is larger than any answer could be."""
        body = bytearray()
        limits = self._limits(max(0.001, deadline - time.monotonic()))
        headers = {"Content-Type": "application/json"} if content else {}
        async with (
            self._gate,
            self._client.stream(
                method, f"{self._address.url}/{path}", content=content, headers=headers, timeout=limits
            ) as response,
        ):
            async for part in response.aiter_raw():
                body += part
                if len(body) > MAX_RESPONSE_BYTES:
                    raise _Failure("a huge response")
            return response.status_code, response.headers, bytes(body)

    async def _list_models(self) -> None:
        """Takes the server's first model where none was named, and warns where there is something to warn of."""
        try:
            async with asyncio.timeout(min(PROBE_SECONDS, self._seconds)):
                deadline = time.monotonic() + PROBE_SECONDS
                status, _, body = await self._request("GET", "models", deadline=deadline)
        except (httpx.HTTPError, TimeoutError, _Failure, OSError) as error:
            self._not_ready(f"cannot be reached yet ({type(error).__name__})")
            return
        if status in RETRIED:
            self._not_ready(f"is not ready yet (status {status})")
            return
        self._listed = True
        if status in (401, 403):
            _log.warning("partner %s refuses us (status %d); set %s", self.name, status, KEYS[0])
        elif not self._model:
            with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
                found = json.loads(body)["data"][0]["id"]
                self._model = found if isinstance(found, str) else ""
            if not self._model:
                _log.warning("partner %s lists no model (status %d); none is named to it", self.name, status)

    def _not_ready(self, why: str) -> None:
        """Warns, once: the next question asks again."""
        if not self._warned:
            _log.warning("partner %s %s", self.name, why)
        self._warned = True

    def _limits(self, seconds: float) -> httpx.Timeout:
        return httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: seconds or a date); 0 where it cannot be read."""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
