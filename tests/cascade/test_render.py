"""Completions as marked text and as JSON."""

import io
import json

import pytest

from lacy_jax.cascade import Completion, Counts, Piece
from lacy_jax.cascade.render import as_json, marked_text
from lacy_jax.terminal import wants_colour

PIECES = (
    Piece(" born in", "slm", -2.0, 2),
    Piece(" Ulm", "partner", 1.5, 2),
    Piece(",", "partner", 1.0, 1),
    Piece(" a", "slm", -3.0, 1),
    Piece(" city", "partner", 0.5, 1),
)
COMPLETION = Completion("Einstein was", " born in Ulm, a city", PIECES, Counts(7, 4, 3, 0), "length")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_brackets_and_colours_mark_what_the_partner_wrote() -> None:
    assert marked_text(COMPLETION, colour=False) == "Einstein was born in⟦ Ulm,⟧ a⟦ city⟧"
    coloured = marked_text(COMPLETION, colour=True)
    assert coloured == "Einstein was born in\x1b[1;36m Ulm,\x1b[0m a\x1b[1;36m city\x1b[0m"


def test_generated_text_cannot_steer_a_terminal() -> None:
    nasty = Completion(
        "a\x1b[31m", "\x1b]0;t\x07\x9b\n\tb", (Piece("\x1b]0;t\x07\x9b\n\tb", "slm", 0.0, 9),), Counts(), "end"
    )
    assert marked_text(nasty, colour=False) == "a␛[31m␛]0;t␇\ufffd\n\tb"


@pytest.mark.parametrize(
    ("stream", "environment", "wanted"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_where_they_are_seen(
    stream: io.StringIO, environment: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(stream) is wanted


def test_json_holds_everything() -> None:
    values = json.loads(json.dumps(as_json(COMPLETION)))
    assert values["prompt"] + values["text"] == "Einstein was born in Ulm, a city"
    assert values["pieces"][1] == {"text": " Ulm", "source": "partner", "score": 1.5, "tokens": 2}
    assert values["counts"] == {"generated": 7, "delegated": 4, "calls": 3, "fallbacks": 0, "share": 4 / 7}
    assert values["finish"] == "length"
