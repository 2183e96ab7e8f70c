"""Renders chat templates, in a process of its own: a template is somebody else's program.

The process takes one line of JSON for each question and writes one for each answer. It imports nothing of lacy_jax.
The system limits its time, memory and files: Jinja's sandbox keeps a template from Python's insides, but lets it count
without end. What a template may use is what transformers gives it (utils/chat_template_utils.py there).
"""

import contextlib
import functools
import json
import math
import resource
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 2  # of one question
MEMORY_BYTES = 1 << 29  # of the process
MOST_CHARACTERS = 1 << 20  # of an answer
_MOST_WORDS = 160  # characters of an error that are passed on


class _Generation(jinja2.ext.Extension):
    """{% generation %}, which marks what the model wrote: for training, and without a meaning here."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's type

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


@functools.lru_cache(maxsize=1)
def _compiled(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment.from_string(source)


def answer(question: Mapping[str, Any]) -> dict[str, str]:
    """{"text": what the template makes of the messages}, or {"error": why it does not}.

    question: source, messages and names, as `ChatTemplate` and the request have them.
    """
    try:
        text = _compiled(question["source"]).render(
            messages=question["messages"], tools=None, documents=None, add_generation_prompt=True, **question["names"]
        )
    except Exception as error:  # of any kind: it is a program
        words = " ".join(str(error).split()) or type(error).__name__
        return {"error": "".join(filter(str.isprintable, words))[:_MOST_WORDS]}
    if len(text) > MOST_CHARACTERS:
        return {"error": f"it writes {len(text)} characters; at most {MOST_CHARACTERS}"}
    return {"text": text}


def _limit(kind: int, most: int) -> None:
    """Some systems do not know a limit: then it is not there."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def main() -> None:
    for kind, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        _limit(kind, most)
    for line in sys.stdin.buffer:
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + CPU_SECONDS)
        said = json.dumps(answer(json.loads(line)))
        sys.stdout.write(said + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
