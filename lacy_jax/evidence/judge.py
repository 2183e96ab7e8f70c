"""A large model on an OpenAI-compatible server that answers questions about texts.

Every answer is written to a SQLite file as it arrives, under everything that it depends on (the body of its request),
so that a run that was interrupted and asks again pays only for what is missing. `cost` says beforehand how much.
See https://platform.openai.com/docs/api-reference/chat for the interface.
"""

import concurrent.futures
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lacy_jax.cascade.remote.address import Role, describe, parse_address
from lacy_jax.cascade.remote.answers import Answers
from lacy_jax.cascade.remote.server import CONCURRENT, Server, Unanswered
from lacy_jax.data.files import parse_json
from lacy_jax.errors import JudgeError

JUDGE = Role("judge", ("LACY_JUDGE_API_KEY", "OPENAI_API_KEY"), JudgeError)
ANSWER_SECONDS = 120.0  # of one try
REFUSALS = frozenset({401, 403, 404})  # what is said to one question would be said to all
MOST_FAILURES = 20  # in a row: after that many questions without an answer, the server is taken for lost
CHARACTERS_PER_TOKEN = 4  # of English; an estimate, since the judge's tokenizer is not known

Progress = Callable[[int, int], None]
"""Called as progress(answered, asked) after each answer."""


@dataclass(frozen=True)
class Settings:
    """Who judges, and how.

    address: "http://HOST:PORT/v1", with "#MODEL" or `model`.
    cache: the SQLite file of answers.
    body: further entries of each request; an entry of None leaves one of ours out, e.g. {"temperature": None}.
    max_requests: more than so many in all are refused before the first is sent; 0: any number.
    """

    address: str
    cache: str
    model: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    max_requests: int = 0
    concurrent: int = CONCURRENT


@dataclass(frozen=True)
class Cost:
    """What questions would take: those already answered cost nothing, equal ones are asked once.

    prompt_tokens: an estimate, CHARACTERS_PER_TOKEN. answer_tokens: the most that could be written, if requests say so.
    """

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def told(self, *, prompt_price: float = 0.0, answer_price: float = 0.0) -> str:
        """One line; prices are for a million tokens, 0 where unknown."""
        line = f"{self.requests:,} requests ({self.cached:,} answers are there), about {self.prompt_tokens:,} "
        line += f"prompt tokens, at most {self.answer_tokens:,} answer tokens"
        if prompt_price or answer_price:
            price = (self.prompt_tokens * prompt_price + self.answer_tokens * answer_price) / 1e6
            line += f", about {price:,.2f} at most"
        return line


class Judge:
    """Asks; see this module's first lines. `failures` counts the questions that went unanswered, by reason."""

    def __init__(self, settings: Settings):
        """Raises `JudgeError` where the address, the model, the key or the cache cannot be used. Sends nothing."""
        address = parse_address(settings.address, role=JUDGE)
        self.model = settings.model or address.model
        if not self.model:
            raise JudgeError("no model of the judge is named; answers are kept by it, so give one")
        self.described = describe(address, model=self.model, role=JUDGE)  # who is asked, in words for the user
        self._settings, self._url = settings, address.url
        self.failures: Counter[str] = Counter()
        self.requests = 0  # questions sent so far, retries not counted
        self._answers = Answers(settings.cache, error=JudgeError)
        self._server = Server(address.url, role=JUDGE, concurrent=settings.concurrent)

    def close(self) -> None:
        self._server.close()
        self._answers.close()

    def cost(self, prompts: Sequence[str], *, max_tokens: int) -> Cost:
        """What `ask` of the same would send."""
        unique = list(dict.fromkeys(prompts))
        new = [prompt for prompt in unique if self._answers.find(self._body(prompt, max_tokens)) is None]
        return Cost(
            requests=len(new),
            cached=len(unique) - len(new),
            prompt_tokens=sum(-(-len(prompt) // CHARACTERS_PER_TOKEN) for prompt in new),
            answer_tokens=self._most_tokens(max_tokens) * len(new),
        )

    def _most_tokens(self, max_tokens: int) -> int:
        own = self._settings.body
        return int(own.get("max_completion_tokens") or own.get("max_tokens") or max_tokens)

    def ask(
        self, prompts: Sequence[str], *, max_tokens: int, progress: Progress = lambda _answered, _asked: None
    ) -> list[str | None]:
        """The judge's greedy answer to each prompt; None where it gave none, see `failures`.

        Raises:
            JudgeError: more questions than `max_requests` (then none is sent), a server that refuses us, or one that
                is lost. Answers that came before are kept.
        """
        bodies = {prompt: self._body(prompt, max_tokens) for prompt in prompts}
        answers = {prompt: self._answers.find(body) for prompt, body in bodies.items()}
        missing = {prompt: bodies[prompt] for prompt, answer in answers.items() if answer is None}
        most = self._settings.max_requests
        if most and self.requests + len(missing) > most:
            raise JudgeError(
                f"{len(missing):,} further requests after {self.requests:,} would be more than max_requests={most:,}; "
                "none of them was sent"
            )
        answers |= self._ask_missing(missing, done=len(answers) - len(missing), progress=progress)
        return [answers[prompt] for prompt in prompts]

    def _ask_missing(self, missing: Mapping[str, bytes], *, done: int, progress: Progress) -> dict[str, str | None]:
        answers: dict[str, str | None] = {}
        in_a_row, left = 0, iter(missing.items())
        running: dict[concurrent.futures.Future[str], str] = {}
        try:
            while True:
                for prompt, body in itertools.islice(left, self._settings.concurrent - len(running)):
                    running[self._server.submit(self._answer(body))] = prompt
                if not running:
                    return answers
                ended, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in ended:
                    prompt = running.pop(future)
                    self.requests += 1
                    try:
                        answers[prompt], in_a_row = future.result(), 0
                    except Unanswered as error:
                        answers[prompt], in_a_row = None, in_a_row + 1
                        self._count(error, in_a_row=in_a_row)
                    progress(done + len(answers), done + len(missing))
        finally:
            concurrent.futures.wait(running)  # what is under way is paid for, and kept

    def _count(self, error: Unanswered, *, in_a_row: int) -> None:
        """Notes a failure; raises `JudgeError` if further questions are useless."""
        if error.status in REFUSALS:
            raise JudgeError(
                f"the judge at {self._url} refuses us (status {error.status}); see its address, its model "
                f"{self.model!r} and the environment variable {JUDGE.keys[0]}"
            )
        self.failures[str(error)] += 1
        if in_a_row >= MOST_FAILURES:
            raise JudgeError(
                f"the judge at {self._url} left {in_a_row} questions in a row unanswered ({error}); its answers "
                "are kept: the same command goes on from there"
            )

    def _body(self, prompt: str, max_tokens: int) -> bytes:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_tokens,
        } | dict(self._settings.body)
        kept = {name: value for name, value in body.items() if value is not None}
        return json.dumps(kept, sort_keys=True).encode()

    async def _answer(self, body: bytes) -> str:
        """The answer to one question, which is kept as it arrives; raises `Unanswered`. In the server's thread."""
        answer = answer_of(await self._server.post("chat/completions", body, seconds=ANSWER_SECONDS))
        self._answers.keep(body, answer)
        return answer


def answer_of(body: bytes) -> str:
    """What the judge wrote, of a response to /chat/completions.

    Raises:
        Unanswered: it has no such thing.
    """
    try:
        text = parse_json(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise Unanswered("not a chat completion") from error
    if not isinstance(text, str):
        raise Unanswered("not a chat completion")
    return text
