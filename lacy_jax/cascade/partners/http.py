"""A partner on a server with the OpenAI interface for completions: vLLM, llama.cpp, TGI, our own.

Every text is a request of its own, so that one that fails costs nothing to the others; several run at once, in one
asyncio loop in a thread. See https://platform.openai.com/docs/api-reference/completions for the interface.
"""

import asyncio
import collections
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import httpx

from lacy_jax.cascade.partners import Wanted
from lacy_jax.cascade.remote.address import PARTNER, Address, parse_address
from lacy_jax.cascade.remote.server import RETRIED, Server, Unanswered
from lacy_jax.cascade.text.extent import complete_extent
from lacy_jax.config import Span
from lacy_jax.data.files import parse_json

# How many tokens are asked for: first, and once more where the answer's end was not among them.
MAX_TOKENS: dict[Span, tuple[int, int]] = {"token": (1, 8), "word": (8, 24), "phrase": (24, 64)}
PROBE_SECONDS = 3.0
IN_TIME = 0.9  # of the timeout: the rest is for handing over what is there

_log = logging.getLogger(__name__)


def from_spec(wanted: Wanted) -> "HttpPartner":
    """The partner "http://..." or "https://...". Raises as `parse_address` and `HttpPartner`."""
    return HttpPartner(parse_address(wanted.spec), span=wanted.span, timeout=wanted.timeout, name=wanted.spec)


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
        Unanswered: it has no such thing.
    """
    try:
        choice = parse_json(body)["choices"][0]
        text, finish = choice["text"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unanswered("not a completion") from error
    if not isinstance(text, str):
        raise Unanswered("not a completion")
    return text, isinstance(finish, str) and finish != "length"


class HttpPartner:
    """Greedy pieces from a server; see this module's first lines.

    The server is asked for its models once, here, and that may fail: llama.cpp and proxies of its kind may lack that
    list, and a server may be started later than we are. So there is only a warning, and the list is asked for again
    with each question until the server answers.
    """

    def __init__(self, address: Address, *, span: Span, timeout: float, name: str = ""):
        """`timeout`: seconds for all of a question, retries included; what is not there by then is "".

        Raises:
            PartnerError: the key in the environment cannot be one.
        """
        self.name = name or address.url
        self._address, self._span, self._seconds = address, span, timeout * IN_TIME
        self._server = Server(address.url, role=PARTNER)
        self._model, self._listed = address.model, bool(address.model)
        self._failures: collections.Counter[str] = collections.Counter()
        self._warned = False  # of a server that is not there yet
        self._server.submit(self._list_models()).result()

    @property
    def failures(self) -> dict[str, int]:
        """How many texts went unanswered for which reason, so far."""
        return dict(self._failures)

    def complete(self, texts: Sequence[str]) -> list[str]:
        """See `Partner.complete`. "" where the server ends its text, and for each text that it fails on."""
        return self._server.submit(self._complete(texts)).result()

    def close(self) -> None:
        """Ends the thread and the connections; nothing may be asked afterwards."""
        self._server.close()

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
        except Unanswered as error:
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
            # Where one token was not a whole character, nobody says where the second one ended.
            span = "word" if self._span == "token" and attempt else self._span
            piece = complete_extent(written, span=span, ended=ended)
            if piece is not None:
                if "\ufffd" in piece:
                    raise Unanswered("broken characters")
                return piece
        raise Unanswered("no end of the answer in sight")

    async def _written(self, prompt: str, *, tokens: int, deadline: float) -> tuple[str, bool]:
        """What the server writes, by as many tries as it takes and time allows."""
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": False}
        content = json.dumps({"model": self._model} | body if self._model else body).encode()
        return written_of(await self._server.post("completions", content, seconds=self._seconds, deadline=deadline))

    async def _list_models(self) -> None:
        """Takes the server's first model where none was named, and warns where there is something to warn of."""
        try:
            async with asyncio.timeout(min(PROBE_SECONDS, self._seconds)):
                response = await self._server.request("GET", "models", seconds=PROBE_SECONDS)
        except (httpx.HTTPError, TimeoutError, Unanswered, OSError) as error:
            self._not_ready(f"cannot be reached yet ({type(error).__name__})")
            return
        status = response.status
        if status in RETRIED:
            self._not_ready(f"is not ready yet (status {status})")
            return
        self._listed = True
        if status in (401, 403):
            _log.warning("partner %s refuses us (status %d); set %s", self.name, status, PARTNER.keys[0])
        elif not self._model:
            with contextlib.suppress(ValueError, LookupError, TypeError):
                found = parse_json(response.body)["data"][0]["id"]
                self._model = found if isinstance(found, str) else ""
            if not self._model:
                _log.warning("partner %s lists no model (status %d); none is named to it", self.name, status)

    def _not_ready(self, why: str) -> None:
        """Warns, once: the next question asks again."""
        if not self._warned:
            _log.warning("partner %s %s", self.name, why)
        self._warned = True
