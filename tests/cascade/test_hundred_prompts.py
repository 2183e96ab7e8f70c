"""A hundred prompts with a partner of each kind: batched with parking equals one by one; faults stay in their rows."""

import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lacy_jax.cascade import Cascade, Completion, Partner, make_partner
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import CorpusConfig
from tests.cascade.http_server import (
    Handler,
    Server,
    closes,
    completion,
    hangs,
    sends,
    serving,
    time_is_over_for_what_hangs,
)
from tests.cascade.test_cascade import PIECES, assert_same
from tests.cascade.test_database import FACTS, write_sqlite
from tests.cascade.test_documents import SMALL

Model = Callable[..., LoadedModel]

STARTS = (
    "Albert Einstein was born in",
    "Marie Curie",
    "The river Danube",
    "In 18",
    "東京",
    "x",
    "😀 and naïve",
    "Ulm is",
)
PROMPTS = [f"{start}{'' if n < 8 else f' number {n}: {start}'}" for n, start in enumerate(STARTS * 13)][:100]
LENGTH = 14


def answer(handler: Handler, body: dict[str, Any], _: int) -> None:
    """A text that depends on all of the prompt, as a server's does."""
    piece = PIECES[zlib.crc32(body["prompt"].encode()) % len(PIECES)]
    handler.reply(completion(f"{piece} and so on" if piece else ""))


class AnyPrompt(dict):  # type: ignore[type-arg]
    """The same handler for every prompt but those of `faults`, which a prompt that begins so gets."""

    def __init__(self, faults: dict[str, Any] | None = None):
        super().__init__()
        self.faults = faults or {}

    def get(self, prompt: str, _default: Any = None) -> Any:
        return next((fault for start, fault in self.faults.items() if prompt.startswith(start)), answer)


@contextlib.contextmanager
def partner_of(kind: str, folder: Path, checkpoint: Path) -> Iterator[Partner]:
    with contextlib.ExitStack() as stack:
        if kind == "documents":
            lines = [json.dumps({"id": d.id, "title": d.title, "text": d.text}) for d in SMALL]
            (folder / "small.jsonl").write_text("\n".join(lines))
            spec = f"documents:{folder / 'small.jsonl'}"
        elif kind == "database":
            spec = f"database:{write_sqlite(folder / 'facts.sqlite', FACTS)}"
        elif kind == "checkpoint":
            spec = f"checkpoint:{checkpoint}"
        else:
            server = stack.enter_context(serving(Server()))
            server.answers = AnyPrompt()
            spec = server.url
        partner = make_partner(spec, corpus=CorpusConfig(), directory=str(folder), batch_size=16, span="word")
        assert partner is not None
        yield partner


@pytest.mark.parametrize("kind", ["documents", "database", pytest.param("checkpoint", marks=pytest.mark.slow), "http"])
def test_batched_equals_one_by_one(model: Model, tmp_path: Path, checkpoint: Path, kind: str) -> None:
    with partner_of(kind, tmp_path, checkpoint) as partner:
        # The database has answers only right behind prompts that ask for a fact.
        cascade = Cascade(model(), partner, budget=0.95 if kind == "database" else 0.4)
        prompts = PROMPTS[:30] if kind == "checkpoint" else PROMPTS  # which decodes an answer to every question
        together = cascade.generate(prompts, max_new_tokens=LENGTH, batch_size=16)
        alone = [cascade.generate([prompt], max_new_tokens=LENGTH)[0] for prompt in prompts]
    assert_same(together, alone)
    assert sum(row.counts.delegated for row in together) > (10 if kind == "database" else len(prompts))


@pytest.mark.slow
def test_faults_of_a_server_stay_in_their_rows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {
        "Albert": hangs,
        "In 18": sends(b"{}", status=500),
        "東京": sends(b"\xff\xfe not json"),
        "x": sends(completion("y" * 100_000)),
        "Ulm": closes,
        "Marie": sends(completion({"no": "text"})),
        "😀": sends(completion("\udcff broken")),
    }

    def run(faulty: dict[str, Any]) -> list[Completion]:
        with serving(Server()) as server:
            server.answers = AnyPrompt(faulty)
            time_is_over_for_what_hangs(server, monkeypatch)
            partner = make_partner(server.url, corpus=CorpusConfig(), directory="", timeout=300.0)
            cascade = Cascade(model(), partner, budget=0.4, timeout=300.0)
            return cascade.generate(PROMPTS[:24], max_new_tokens=8, batch_size=12)

    good, bad = run({}), run(faults)
    for before, after in zip(good, bad, strict=True):
        if any(after.prompt.startswith(start) for start in faults):
            assert after.counts.delegated == 0
            assert after.counts.fallbacks == after.counts.calls
        else:
            assert_same([before], [after])
    assert sum(row.counts.fallbacks for row in bad) > 20
