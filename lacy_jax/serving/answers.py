"""The JSON of answers, in OpenAI's shapes; what the cascade adds stands in each choice's field `lacy`."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lacy_jax.cascade import Piece
from lacy_jax.serving.service import Finished, Progress

DONE = b"data: [DONE]\n\n"
# OpenAI knows two ends of a text: the model or a stop string ended it, or there was no room (or time) for more.
_FINISH = {"end": "stop", "stop": "stop", "length": "length", "time": "length"}


@dataclass(frozen=True)
class Envelope:
    """What is the same in all parts of one answer. `created`: seconds since 1970."""

    id: str
    created: int
    model: str

    def wrap(self, choices: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**head, "choices": list(choices), **more}


def choice_json(index: int, finished: Finished, *, prefix: str = "") -> dict[str, Any]:
    """A whole choice. `prefix`: the prompt where it is to be echoed."""
    return _choice(index, prefix + finished.text, _FINISH[finished.finish], _lacy(finished.pieces, finished))


def chunk_json(progress: Progress, *, prefix: str = "") -> dict[str, Any]:
    """A choice's part of a stream."""
    done = progress.finished
    text = prefix + "".join(piece.text for piece in progress.pieces)
    return _choice(progress.choice, text, _FINISH[done.finish] if done else None, _lacy(progress.pieces, done))


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


def _choice(index: int, text: str, finish: str | None, lacy: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish, "lacy": lacy}


def _lacy(pieces: Iterable[Piece], finished: Finished | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"pieces": [_piece(piece) for piece in pieces]}
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


def _piece(piece: Piece) -> dict[str, Any]:
    """JSON knows no infinity: a score without a number is null."""
    score = round(float(piece.score), 4) if math.isfinite(piece.score) else None
    return {"text": piece.text, "source": piece.source, "score": score, "tokens": piece.tokens}
