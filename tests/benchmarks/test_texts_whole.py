"""What counts as a text that is not whole."""

import pytest

from benchmarks.texts_whole import findings, prompt_of
from lacy_jax.cascade import Completion, Counts, Piece

WORDS = {"a", "vast", "plain", "the", "einstein", "ein", "river", "danube"}
BEGINNINGS = {word[:size] for word in WORDS for size in range(1, len(word))}


@pytest.mark.parametrize(
    ("prompt", "pieces", "faults"),
    [
        ("a", [("slm", " vast"), ("partner", " plain"), ("slm", ".")], []),
        ("a", [("slm", " vast"), ("partner", "hopadamba")], ["corrupted"]),
        ("Ein", [("partner", "stein")], []),  # a word of its own, and of another one
        ("Zor", [("partner", "bax")], []),  # the SLM's own invention
        ("in 18", [("partner", "79"), ("slm", " a")], []),
        ("the", [("partner", " the"), ("slm", " river")], ["doubled"]),
        ("a", [("partner", " Dan")], ["cut"]),
        ("a", [("partner", " Dan"), ("slm", "ube")], ["cut", "gone on with"]),
        ("a", [("slm", " Dan"), ("slm", "ube")], []),
    ],
)
def test_findings(prompt: str, pieces: list[tuple[str, str]], faults: list[str]) -> None:
    made = tuple(Piece(text, "slm" if source == "slm" else "partner", 0.0, 1) for source, text in pieces)
    completion = Completion(prompt, "".join(piece.text for piece in made), made, Counts(), "length")
    assert [each.fault for each in findings(completion, WORDS, BEGINNINGS)] == faults


def test_a_prompt_ends_with_a_word() -> None:
    assert prompt_of("word " * 100).endswith(" word")
    assert prompt_of("x" * 300) == "x" * 160
