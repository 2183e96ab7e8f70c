"""A conversation as the model reads it: its own chat template, and the ids of what that writes.

Control tokens come from the template alone. The same words in a message are text, whatever the template does with it:
every character of a message that could begin one is followed by `_MARK` while the template works, which no name of a
control token has in it.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lacy_jax.cascade import Opening
from lacy_jax.checkpoints.chat_template import ChatTemplate
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.errors import DataError
from lacy_jax.serving.errors import ApiError

_MARK = "\ufdd0"  # no character, and none of any text: Unicode keeps it for programs
_TAG = r"</?\w+>"  # "<think>", "</tool_call>": templates look for some of them in messages
_SANDBOX = Path(__file__).with_name("chat_sandbox.py")
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "HOME", "LANG", "TZ", "LD_LIBRARY_PATH")  # no keys among them


@dataclass(frozen=True)
class Message:
    """role: "system", "user" or "assistant"."""

    role: str
    content: str


class Chat:
    """How the conversations of one model are opened. Its methods may be called from any thread."""

    def __init__(self, template: ChatTemplate, tokenizer: TextTokenizer):
        self._template, self._tokenizer = template, tokenizer
        # A name of one character cannot be told from a text of that character.
        self._ids = {name: index for name, index in tokenizer.control_tokens().items() if len(name) > 1}
        self._folded = {name.casefold() for name in self._ids}
        self._control = _any_of(self._ids)
        self._first = _any_of({cased for name in self._ids for cased in (name[0].lower(), name[0].upper(), name[0])})
        self._begin = re.compile(f"{_TAG}|{self._first.pattern}")
        self._renderer = _Renderer()

    def open(self, messages: Sequence[Message]) -> Opening:
        """What the model reads of a conversation before it answers.

        Raises:
            ApiError: 400, the template refuses it, or takes too much to write it.
        """
        contents = [{**asdict(message), "content": self._marked(message.content)} for message in messages]
        rendered = self._renderer.render(
            {"source": self._template.source, "names": dict(self._template.names), "messages": contents}
        )
        ids: list[int] = []
        start = 0
        try:
            for found in self._control.finditer(rendered):
                ids += [*self._encode(rendered[start : found.start()]), self._ids[found[0]]]
                start = found.end()
            return Opening(tuple(ids), rendered[start:].replace(_MARK, ""))
        except DataError as error:
            raise ApiError(400, " ".join(str(error).split()), param="messages") from None

    def count(self, opening: Opening) -> int:
        """Tokens of an opening."""
        return len(opening.ids) + len(self._tokenizer.encode(opening.text))

    def close(self) -> None:
        """Ends the process that renders, if there is one."""
        self._renderer.close()

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text.replace(_MARK, "")).ids.tolist()
        return ids

    def _marked(self, text: str) -> str:
        """The text with a mark after every character that may begin a control token, but for other complete tags."""

        def mark(found: re.Match[str]) -> str:
            tag = found[0]
            harmless = len(tag) > 1 and tag.casefold() not in self._folded and not self._first.search(tag, 1)
            return tag if harmless else self._first.sub(rf"\g<0>{_MARK}", tag)

        return self._begin.sub(mark, text.replace(_MARK, "\ufffd"))


class _Renderer:
    """The process of chat_sandbox.py: started when it is first asked, and anew where it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, question: Mapping[str, Any]) -> str:
        """What the template writes; raises `ApiError` 400 where it does not."""
        with self._lock:
            said = self._ask(json.dumps(question).encode() + b"\n")
        answer = json.loads(said) if said else {"error": "it took too much time or memory"}
        if "error" in answer:
            raise ApiError(400, f"the model's chat template: {answer['error']}", param="messages")
        text: str = answer["text"]
        return text

    def _ask(self, question: bytes) -> bytes:
        """A line of the process; b"" where it ended, which is what its limits do."""
        if self._process is None or self._process.poll() is not None:
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_SANDBOX)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        said = b""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(question)
            self._process.stdin.flush()
            said = self._process.stdout.readline()
        if not said.endswith(b"\n"):
            self._end()
            return b""
        return said

    def close(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _any_of(names: Mapping[str, int] | set[str]) -> re.Pattern[str]:
    """Finds the longest of the names at a place; nothing where there are none."""
    longest = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) or r"(?!)")
