"""A partner that compiles does so before it is first asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from lacy_jax.cascade import Cascade, Request
from lacy_jax.checkpoints.loading import LoadedModel
from tests.cascade.test_cascade import Fake


@dataclass
class Compiling(Fake):
    """A partner that answers nothing before it has compiled, as a model on a CPU would answer too late."""

    prepared: list[tuple[list[str], int]] = field(default_factory=list)

    def warm_up(self, texts: Sequence[str] = (), *, more: int = 0) -> int:
        self.prepared.append((list(texts), more))
        return 3

    def complete(self, texts: Sequence[str]) -> list[str]:
        if not self.prepared:
            raise TimeoutError
        return super().complete(texts)


def test_a_partner_compiles_before_it_is_asked(model: Callable[..., LoadedModel]) -> None:
    partner = Compiling(lambda _: " Ulm")
    cascade = Cascade(model(), partner, budget=0.5)
    rows = cascade.generate(["In 18", Request("x", max_new_tokens=9)], max_new_tokens=20)
    assert partner.prepared == [(["In 18", "x"], 20)]
    assert sum(row.counts.calls for row in rows) > 0
    assert sum(row.counts.fallbacks for row in rows) == 0
    assert cascade.prepare([]) == 0
    assert cascade.prepare([Request("y", max_new_tokens=5)]) == 3
    never = Cascade(model(), partner, budget=0.0)
    assert never.prepare([Request("x", max_new_tokens=5)]) == 0
    assert never.prepare([Request("x", max_new_tokens=5), Request("z", max_new_tokens=7, budget=0.1)]) == 3
    assert partner.prepared[1:] == [(["y"], 5), (["z"], 7)]


def test_it_says_once_that_it_compiles(model: Callable[..., LoadedModel], caplog: pytest.LogCaptureFixture) -> None:
    """A program may compile for minutes, and an evaluation asks for many texts."""
    cascade = Cascade(model(), Compiling(lambda _: " Ulm"), budget=0.5)
    for _ in range(2):
        cascade.generate(["In 18"], max_new_tokens=4)
    assert caplog.messages == [
        "partner fake compiles its programs before it is first asked",
        "partner fake: 3 programs, 0 s",
    ]
