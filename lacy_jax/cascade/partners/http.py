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
from lacy_jax.cascade.partners.guard import BROKEN, ENDLESS, Clock
from lacy_jax.cascade.remote.address import PARTNER, Address, parse_address
from lacy_jax.cascade.remote.refusal import address_hint, may_pass, refusal, unreachable
from lacy_jax.cascade.remote.rest import Rest
from lacy_jax.cascade.remote.server import Response, Server, Unanswered
from lacy_jax.cascade.text.extent import complete_extent
from lacy_jax.config import Span
from lacy_jax.data.files import parse_json
from lacy_jax.errors import PartnerError

# How many tokens are asked for: first, and once more where the answer's end was not among them.
MAX_TOKENS: dict[Span, tuple[int, int]] = {"token": (1, 8), "word": (8, 24), "phrase": (24, 64)}
# The small question that shows whether a server answers, and how long it may take at the start, and the list of models.
QUESTION = "The"
QUESTION_SECONDS, LIST_SECONDS = 10.0, 3.0
IN_TIME = 0.9  # of the timeout: the rest is for handing over what is there
# How long a server that hangs is left alone first, and what texts then count as.
FIRST_REST_SECONDS = 1.0
NOT_ASKED = "not asked"
_HANGS = frozenset({"late", "ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout"})

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

    The server is asked for its models and one small question here. What will not change by itself (a wrong key or
    address, an unknown model, nobody at the port) is an error. A server that is not ready yet is only warned of, and
    the list is asked for again with each question until the server answers: llama.cpp and proxies of its kind may lack
    that list.

    A server that leaves all texts of a question without an answer until time is over is left alone for a while: texts
    go unanswered at once, and only a small question beside them, for which nobody waits, finds out whether it is back.
    """

    def __init__(self, address: Address, *, span: Span, timeout: float, name: str = "", clock: Clock | None = None):
        """`timeout`: seconds for all of a question, retries included; what is not there by then is "".

        Raises:
            PartnerError: the key in the environment cannot be one, or the server will never answer; says why.
        """
        self.name = name or address.url
        self._address, self._span, self._seconds = address, span, timeout * IN_TIME
        self._server = Server(address.url, role=PARTNER)
        self._model, self._listed = address.model, False
        self._failures: collections.Counter[str] = collections.Counter()
        self._warned = False  # of a server that is not there yet
        self._clock = clock or Clock()
        self._rest, self._alone = Rest(), False  # only touched in the server's loop, as is `_trial`
        self._trial: asyncio.Task[None] | None = None
        try:
            self._server.submit(self._meet()).result()
        except BaseException:
            self._server.close()
            raise

    @property
    def failures(self) -> dict[str, int]:
        """How many texts went unanswered for which reason, so far."""
        return dict(self._failures)

    def complete(self, texts: Sequence[str]) -> list[str]:
        """See `Partner.complete`. "" where the server ends its text, and for each text that it fails on."""
        return self._server.submit(self._complete(texts)).result()

    def close(self) -> None:
        """Ends the thread and the connections; nothing may be asked afterwards."""
        self._server.submit(self._end_trial()).result()
        self._server.close()

    async def _complete(self, texts: Sequence[str]) -> list[str]:
        if not texts:
            return []
        if self._is_left_alone():
            self._failures[NOT_ASKED] += len(texts)
            return [""] * len(texts)
        deadline = time.monotonic() + self._seconds
        if not self._listed:
            await self._list_models()
        tasks = [asyncio.create_task(self._answer(text, deadline=deadline)) for text in texts]
        _, late = await asyncio.wait(tasks, timeout=max(0.0, deadline - time.monotonic()))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        reasons = [_reason(task) for task in tasks]
        for reason in filter(None, reasons):
            self._count(reason)
        if all(reason in _HANGS for reason in reasons):
            self._missed()
        else:
            self._rest = Rest()
        return ["" if reason else task.result() for reason, task in zip(reasons, tasks, strict=True)]

    def _count(self, reason: str) -> None:
        """Counts a text that goes unanswered, and logs the first one of its kind."""
        self._failures[reason] += 1
        if self._failures[reason] == 1:
            _log.warning("partner %s: a text goes unanswered: %s (further ones are only counted)", self.name, reason)

    def _missed(self) -> None:
        """The server hung: it is left alone, longer each time."""
        if not self._alone:
            _log.warning("partner %s does not answer in time; texts go on without it until it is back", self.name)
        self._rest = self._rest.missed(self._clock.now(), first=FIRST_REST_SECONDS)
        self._alone = True

    def _is_left_alone(self) -> bool:
        """Whether texts are not asked now. Starts a small question beside them where it is time for one."""
        if self._alone and self._trial is None and self._clock.now() >= self._rest.until:
            self._trial = asyncio.create_task(self._try_again())
        return self._alone

    async def _try_again(self) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._small_question()
            self._alone = False
            _log.warning("partner %s is back", self.name)
        except (httpx.TransportError, TimeoutError, OSError, Unanswered):
            self._missed()
        finally:
            self._trial = None

    async def _end_trial(self) -> None:
        if self._trial is not None:
            self._trial.cancel()
            await asyncio.gather(self._trial, return_exceptions=True)

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
                    raise Unanswered(BROKEN)
                return piece
        raise Unanswered(ENDLESS)

    async def _written(self, prompt: str, *, tokens: int, deadline: float) -> tuple[str, bool]:
        """What the server writes, by as many tries as it takes and time allows."""
        content = self._content(prompt, tokens=tokens)
        return written_of(await self._server.post("completions", content, seconds=self._seconds, deadline=deadline))

    def _content(self, prompt: str, *, tokens: int) -> bytes:
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": False}
        return json.dumps({"model": self._model} | body if self._model else body).encode()

    async def _small_question(self) -> Response:
        """The server's response to a question for one token, whatever it is."""
        return await self._server.request(
            "POST", "completions", self._content(QUESTION, tokens=1), seconds=self._seconds
        )

    async def _meet(self) -> None:
        """The first contact: raises `PartnerError` where the server will never answer, warns where it may later."""
        url = self._address.url
        try:
            async with asyncio.timeout(min(LIST_SECONDS, self._seconds)):
                models = await self._models()
            if not self._listed:
                return
            async with asyncio.timeout(min(QUESTION_SECONDS, self._seconds)):
                response = await self._small_question()
            if may_pass(response.status):
                self._not_ready(f"is not ready yet (status {response.status})")
                return
            if response.status != 200:
                raise PartnerError(refusal(response, url=url, model=self._model, role=PARTNER))
            written_of(response.body)
        except (httpx.ConnectError, httpx.ProtocolError) as error:
            raise PartnerError(unreachable(error, url=url, role=PARTNER)) from error
        except (httpx.TimeoutException, TimeoutError):
            self._missed()
        except (httpx.HTTPError, OSError) as error:
            self._not_ready(f"cannot be reached yet ({type(error).__name__})")
        except Unanswered as error:
            raise PartnerError(f"the partner's server {url} answers, but this is {error}{address_hint(url)}") from error
        else:
            if not self._model:
                _log.warning("partner %s lists no model; none is named to it", self.name)
            elif models and self._model not in models:
                _log.warning("partner %s has no model %r, it lists %s; it answers", self.name, self._model, models[:5])

    async def _list_models(self) -> None:
        """See `_models`; warns where the server does not answer."""
        try:
            async with asyncio.timeout(min(LIST_SECONDS, self._seconds)):
                await self._models()
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            self._not_ready(f"cannot be reached yet ({type(error).__name__})")

    async def _models(self) -> list[str]:
        """The server's models, as far as it lists any. Takes the first one where none was named.

        Raises:
            httpx.TransportError, OSError: there is no response.
        """
        status, models = 200, list[str]()
        with contextlib.suppress(Unanswered, ValueError, LookupError, TypeError):
            response = await self._server.request("GET", "models", seconds=self._seconds)
            status = response.status
            models = [each["id"] for each in parse_json(response.body)["data"] if isinstance(each["id"], str)]
        if may_pass(status):
            self._not_ready(f"is not ready yet (status {status})")
            return []
        self._listed = True
        if not self._model and models:
            self._model = models[0]
        return models

    def _not_ready(self, why: str) -> None:
        """Warns, once: the next question asks again."""
        if not self._warned:
            _log.warning("partner %s %s", self.name, why)
        self._warned = True


def _reason(task: "asyncio.Task[str]") -> str:
    """Why a task has no piece, "" where it has one."""
    try:
        task.result()
    except asyncio.CancelledError:
        return "late"
    except Unanswered as error:
        return str(error)
    except Exception as error:  # whatever httpx may raise besides; its message might hold a header
        return type(error).__name__
    return ""
