"""A large model behind an OpenAI-compatible server that answers questions about texts.

Every answer is written to a SQLite file as it arrives, under everything that it depends on (the body of its request),
so that whoever was interrupted and asks again pays only for what is missing. `cost` tells beforehand what that is.
See https://platform.openai.com/docs/api-reference/chat for the interface.
"""

import concurrent.futures
import hashlib
import json
import random
import sqlite3
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from lacy_jax.cascade.partners.http import (
    BACKOFF_SECONDS,
    CONCURRENT,
    CONNECT_SECONDS,
    MOST_TRIES,
    RETRIED,
    api_key,
    parse_address,
    retry_after,
)
from lacy_jax.errors import JudgeError, PartnerError

KEYS = ("LACY_JUDGE_API_KEY", "OPENAI_API_KEY")
ANSWER_SECONDS = 120.0
LONGEST_PAUSE = 60.0  # seconds between two tries, whatever a server asks for
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


@dataclass(frozen=True)
class _Failed:
    reason: str


class Judge:
    """Asks; see this module's first lines. `failures` counts the questions that went unanswered, by reason."""

    def __init__(self, settings: Settings):
        """Raises `JudgeError` where the address, the model, the key or the cache cannot be used. Sends nothing."""
        try:
            address = parse_address(settings.address, role="judge", keys=KEYS)
            key = api_key(KEYS)
        except PartnerError as error:
            raise JudgeError(str(error)) from None
        self.model = settings.model or address.model
        if not self.model:
            raise JudgeError("no model of the judge is named; answers are kept by it, so give one")
        self._settings, self._url = settings, f"{address.url}/chat/completions"
        self.failures: Counter[str] = Counter()
        self.requests = 0  # questions sent so far, retries not counted
        # The environment may name a proxy, which has no way to this machine's own servers.
        host = urllib.parse.urlsplit(address.url).hostname or ""
        local = host in ("localhost", "::1") or host.startswith("127.")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=settings.concurrent),
            trust_env=not local,
        )
        try:
            Path(settings.cache).parent.mkdir(parents=True, exist_ok=True)
            self._cache = sqlite3.connect(settings.cache, timeout=60.0, check_same_thread=False)
            self._lock = threading.Lock()
            self._cache.execute("PRAGMA journal_mode = WAL")
            self._cache.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise JudgeError(f"{settings.cache}: cannot keep answers there ({error})") from None

    def close(self) -> None:
        self._client.close()
        self._cache.close()

    def cost(self, prompts: Sequence[str], *, max_tokens: int) -> Cost:
        """What `ask` of the same would send."""
        unique = list(dict.fromkeys(prompts))
        new = [prompt for prompt in unique if self._known(self._body(prompt, max_tokens)) is None]
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
        answers = {prompt: self._known(body) for prompt, body in bodies.items()}
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
        in_a_row = 0
        pool = concurrent.futures.ThreadPoolExecutor(self._settings.concurrent)
        try:
            futures = {pool.submit(self._answer, body): prompt for prompt, body in missing.items()}
            for future in concurrent.futures.as_completed(futures):
                prompt, found = futures[future], future.result()
                self.requests += 1
                if isinstance(found, _Failed):
                    self.failures[found.reason] += 1
                    in_a_row += 1
                    answers[prompt] = None
                    if in_a_row >= MOST_FAILURES:
                        raise JudgeError(
                            f"the judge at {self._url} left {in_a_row} questions in a row unanswered ({found.reason}); "
                            "what it answered is kept: the same command goes on from there"
                        )
                else:
                    in_a_row = 0
                    answers[prompt] = found
                progress(done + len(answers), done + len(missing))
        finally:
            pool.shutdown(cancel_futures=True)
        return answers

    def _body(self, prompt: str, max_tokens: int) -> bytes:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_tokens,
        } | dict(self._settings.body)
        kept = {name: value for name, value in body.items() if value is not None}
        return json.dumps(kept, sort_keys=True).encode()

    def _known(self, body: bytes) -> str | None:
        with self._lock:
            row = self._cache.execute("SELECT answer FROM answers WHERE key = ?", (_key(body),)).fetchone()
        return None if row is None else str(row[0])

    def _answer(self, body: bytes) -> str | _Failed:
        """One question, by as many tries as it takes. Runs in a thread of its own.

        Raises:
            JudgeError: the server refuses us, and would every question.
        """
        for tried in range(1, MOST_TRIES + 1):
            pause = BACKOFF_SECONDS * 2 ** (tried - 1) * random.uniform(0.5, 1.5)
            try:
                response = self._client.post(self._url, content=body, headers={"Content-Type": "application/json"})
            except httpx.HTTPError as error:
                reason = type(error).__name__
            else:
                if response.status_code == 200:
                    return self._kept(body, answer_of(response.content))
                if response.status_code in (401, 403, 404):
                    raise JudgeError(
                        f"the judge at {self._url} refuses us (status {response.status_code}); see its address, its "
                        f"model {self.model!r} and the environment variable {KEYS[0]}"
                    )
                reason = f"status {response.status_code}"
                if response.status_code not in RETRIED:
                    break
                pause = max(pause, min(LONGEST_PAUSE, retry_after(response.headers.get("Retry-After", ""))))
            if tried < MOST_TRIES:
                time.sleep(pause)
        return _Failed(reason)

    def _kept(self, body: bytes, found: str | _Failed) -> str | _Failed:
        if isinstance(found, str):
            with self._lock, self._cache:
                self._cache.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (_key(body), found))
        return found


def answer_of(body: bytes) -> str | _Failed:
    """What the judge wrote, of a response to /chat/completions."""
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return _Failed("not a chat completion")
    return text if isinstance(text, str) else _Failed("not a chat completion")


def _key(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
