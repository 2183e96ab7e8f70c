"""The JSON of answers, in OpenAI's shapes; what the cascade adds stands in a field `lacy`, beside the text."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lacy_jax.cascade import Piece
from lacy_jax.serving.service import Finished, Progress

DONE = b"data: [DONE]\n\n"
# OpenAI knows two ends of a text: the model or a stop string ended it, or there was no room (or time) for more.
_FINISH = {"end": "stop", "stop": "stop", "length": "length", "time": "length"}


# A choice's text and the cascade's fields, as a route words them.
_Worded = Callable[[str, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Form:
    """How a route words its answers: whole ones, the first part of a choice in a stream, and its later parts.

    prefix: of an answer's id. whole_kind, part_kind: what the JSON calls them.
    """

    prefix: str
    whole_kind: str
    part_kind: str
    whole: _Worded
    first: _Worded
    later: _Worded


def _text(text: str, lacy: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, "lacy": lacy}


def _message(text: str, lacy: dict[str, Any]) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text, "refusal": None, "lacy": lacy}}


def _first_delta(text: str, lacy: dict[str, Any]) -> dict[str, Any]:
    return {"delta": {"role": "assistant", "content": text, "lacy": lacy}}


def _delta(text: str, lacy: dict[str, Any]) -> dict[str, Any]:
    return {"delta": {"content": text, "lacy": lacy}}


COMPLETION = Form("cmpl", "text_completion", "text_completion", whole=_text, first=_text, later=_text)
CHAT = Form("chatcmpl", "chat.completion", "chat.completion.chunk", whole=_message, first=_first_delta, later=_delta)


@dataclass(frozen=True)
class Envelope:
    """What is the same in all parts of one answer. `created`: seconds since 1970."""

    form: Form
    id: str
    created: int
    model: str

    def wrap(self, choices: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """A whole answer."""
        return self._wrap(self.form.whole_kind, choices, **more)

    def wrap_part(self, choices: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """A part of a stream."""
        return self._wrap(self.form.part_kind, choices, **more)

    def _wrap(self, kind: str, choices: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": list(choices), **more}


def choice_json(form: Form, index: int, finished: Finished, *, prefix: str = "") -> dict[str, Any]:
    """A whole choice. `prefix`: the prompt where it is to be echoed."""
    worded = form.whole(prefix + finished.text, _lacy(finished.pieces, finished))
    return _choice(index, worded, _FINISH[finished.finish])


def chunk_json(form: Form, progress: Progress, *, before: int | None, prefix: str = "") -> dict[str, Any]:
    """A choice's part of a stream. `before`: pieces in its parts before; None: it is the first part."""
    done = progress.finished
    text = prefix + "".join(piece.text for piece in progress.pieces)
    lacy = _lacy(progress.pieces, done, before=before or 0)
    worded = (form.first if before is None else form.later)(text, lacy)
    return _choice(progress.choice, worded, _FINISH[done.finish] if done else None)


def usage_json(prompt_tokens: int, finished: Iterable[Finished]) -> dict[str, int]:
    """SLM tokens. A prompt counts once, however many choices it has."""
    written = sum(choice.counts.generated for choice in finished)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
    }


def event(value: Mapping[str, Any]) -> bytes:
    """A server-sent event. ASCII only: some clients cut lines at U+2028 and its like."""
    return b"data: " + json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n\n"


def _choice(index: int, worded: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {**worded, "index": index, "logprobs": None, "finish_reason": finish}


def _lacy(pieces: Iterable[Piece], finished: Finished | None, *, before: int = 0) -> dict[str, Any]:
    fields: dict[str, Any] = {"pieces": [_piece(index, piece) for index, piece in enumerate(pieces, start=before)]}
    if finished is not None:
        counts = finished.counts
        fields |= {
            "share": round(counts.share, 6),
            "generated": counts.generated,
            "delegated": counts.delegated,
            "calls": counts.calls,
            "unanswered": counts.fallbacks,
            "finish": finished.finish,
        }
    return fields


def _piece(index: int, piece: Piece) -> dict[str, Any]:
    """JSON knows no infinity: a score without a number is null. OpenAI's client adds up lists by their `index`."""
    score = round(float(piece.score), 4) if math.isfinite(piece.score) else None
    return {"index": index, "text": piece.text, "source": piece.source, "score": score, "tokens": piece.tokens}
