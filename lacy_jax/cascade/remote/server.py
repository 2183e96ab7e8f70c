"""Questions to a server, with retries, in one asyncio loop in a thread.

What a server does wrong is `Unanswered`, with a reason that holds nothing secret.
"""

import asyncio
import concurrent.futures
import email.utils
import math
import random
import threading
import time
import urllib.parse
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TypeVar

import httpx

from lacy_jax.cascade.remote.address import Role, api_key

MAX_RESPONSE_BYTES = 1_000_000
CONCURRENT = 16  # questions at once
MOST_TRIES = 4
BACKOFF_SECONDS = 0.25  # before the second try; doubled before each further one, times 0.5 to 1.5
LONGEST_PAUSE = 60.0  # seconds between two tries, whatever a server asks for
CONNECT_SECONDS = 2.0
RETRIED = frozenset({408, 429, 500, 502, 503, 504})

_Result = TypeVar("_Result")


class Unanswered(Exception):
    """A question that goes unanswered. `status`: the HTTP status that the server gave, 0 where it gave none."""

    def __init__(self, reason: str, *, status: int = 0):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Response:
    """What a server sent, of whatever status."""

    status: int
    headers: httpx.Headers
    body: bytes


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: seconds or a date); 0 where it cannot be read."""
    if (seconds := value.strip()).isdecimal():
        return float(seconds)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


class Server:
    """One server, asked from any thread; its loop runs in a thread of its own, a daemon.

    A server that cannot be reached gets several tries for a question, and after that one (`away`)
    until it is back.
    """

    def __init__(self, url: str, *, role: Role, concurrent: int = CONCURRENT):
        """Sends nothing. `concurrent`: questions at once, those that pause before another try included.

        Raises:
            LacyError: the role's: the key in the environment cannot be one.
        """
        self.away = False
        self._url = url
        key = api_key(role)
        # The environment may name a proxy, which has no way to this machine's own servers.
        host = urllib.parse.urlsplit(url).hostname or ""
        self._client = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=concurrent),
            trust_env=not (host in ("localhost", "::1") or host.startswith("127.")),
            follow_redirects=False,
        )
        self._gate = asyncio.Semaphore(concurrent)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name=f"{role.name} {url}", daemon=True).start()

    def submit(self, work: Coroutine[object, object, _Result]) -> concurrent.futures.Future[_Result]:
        """Starts `work` in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Ends the thread and the connections; nothing may be asked afterwards."""
        self.submit(self._client.aclose()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def request(self, method: str, path: str, content: bytes | None = None, *, seconds: float) -> Response:
        """One request, once.

        Raises:
            httpx.TransportError: there is no response, or a part of it takes more than so many seconds.
            Unanswered: its body is larger than any answer could be.
        """
        body = bytearray()
        async with self._client.stream(
            method,
            f"{self._url}/{path}",
            content=content,
            headers={"Content-Type": "application/json"} if content else {},
            timeout=httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds)),
        ) as response:
            async for part in response.aiter_raw():
                body += part
                if len(body) > MAX_RESPONSE_BYTES:
                    raise Unanswered("a huge response")
            return Response(response.status_code, response.headers, bytes(body))

    async def post(self, path: str, content: bytes, *, seconds: float, deadline: float = math.inf) -> bytes:
        """The body of a response of status 200, by as many tries as it takes and time allows.

        Args:
            seconds: that each try may take. deadline: of all of them, on time.monotonic()'s clock.

        Raises:
            Unanswered: there is none.
        """
        async with self._gate:
            for tried in range(1, MOST_TRIES + 1):
                pause, status = BACKOFF_SECONDS * 2 ** (tried - 1) * random.uniform(0.5, 1.5), 0
                left = max(0.001, min(seconds, deadline - time.monotonic()))
                try:
                    response = await self.request("POST", path, content, seconds=left)
                except httpx.TransportError as error:
                    reason = type(error).__name__
                    unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                    if unreachable and self.away:
                        break
                    self.away = self.away or (unreachable and tried == MOST_TRIES)
                else:
                    self.away = False
                    if response.status == 200:
                        return response.body
                    status, reason = response.status, f"status {response.status}"
                    if status not in RETRIED:
                        break
                    asked = retry_after(response.headers.get("Retry-After", ""))
                    pause = max(pause, min(LONGEST_PAUSE, asked))
                if tried == MOST_TRIES or time.monotonic() + pause >= deadline:
                    break
                await asyncio.sleep(pause)
        raise Unanswered(reason, status=status)
