"""Acceptability: a judge on loopback with known verdicts, areas against counting pairs, tokens against a plain loop."""

import ast
import dataclasses
import itertools
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from starlette.responses import Response

from lacy_jax import acceptability as door
from lacy_jax.checkpoints.format import META_FILE
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.data.documents import full_text
from lacy_jax.data.factual import factual_tokens
from lacy_jax.data.prepared import Prepared
from lacy_jax.doors import enter
from lacy_jax.evidence.acceptability import mismatches as acceptability
from lacy_jax.evidence.acceptability import page
from lacy_jax.evidence.acceptability.mismatches import Target
from lacy_jax.measures.intervals import shown
from lacy_jax.model import decoder
from tests.evidence.judge_server import JudgeServer, serving

pytestmark = pytest.mark.usefixtures("quick_judge")


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    """Accepts what does not begin with a capital or a digit."""

    def answer(prompt: str, _count: int) -> str:
        after = ast.literal_eval(prompt.split("It goes on with: ", 1)[1].split("\n", 1)[0]).lstrip()
        return "No." if after[:1].isupper() or after[:1].isdigit() else "Yes"

    with serving(answer) as running:
        yield running


def target(loss: float, factual: bool, *, document: int = 0, mismatch: bool = True) -> Target:
    return Target(document, "before ", "after it", "after", "said", loss, factual, mismatch)


def run(server: JudgeServer, workdir: Path, out: Path, *more: str) -> int:
    return enter(door.DOOR, [f"--checkpoint={workdir}", f"--judge={server.url}#m", f"--out={out}", *more])


def test_areas_are_shares_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    judged = [target(float(random.integers(5)), bool(random.integers(2)), document=n % 7) for n in range(60)]
    others = [target(float(random.integers(3)), False, document=n % 7, mismatch=False) for n in range(40)]
    verdicts: list[acceptability.Verdict] = ["unacceptable" if random.random() < 0.4 else "acceptable" for _ in judged]
    verdicts[3] = "unclear"
    found = acceptability.predict([*judged, *others], mismatches=judged, verdicts=verdicts)

    def pairs(scores: list[float], positive: list[bool]) -> float:
        high = [s for s, p in zip(scores, positive, strict=True) if p]
        low = [s for s, p in zip(scores, positive, strict=True) if not p]
        return float(np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(high, low)]))

    kept = [(each, v) for each, v in zip(judged, verdicts, strict=True) if v != "unclear"]
    bad = [v == "unacceptable" for _, v in kept]
    scores = {
        "loss": [t.loss for t, _ in kept],
        "factual": [float(t.factual) for t, _ in kept],
        "loss x factual": [t.loss * t.factual for t, _ in kept],
    }
    for name, values in scores.items():
        area = found.unacceptable[name]
        assert area.estimate == pytest.approx(pairs(values, bad))
        assert area.low < area.estimate < area.high
    mismatch = found.mismatch["loss"]
    expected = pairs([t.loss for t in [*judged, *others]], [True] * 60 + [False] * 40)
    assert mismatch.estimate == pytest.approx(expected)


def test_nothing_to_tell_apart_is_none() -> None:
    found = acceptability.predict([target(1.0, True)], mismatches=[target(1.0, True)], verdicts=["acceptable"])
    without = acceptability.predict([target(1.0, True)], mismatches=[target(1.0, True)], verdicts=["unclear"])
    for area in (*found.unacceptable.values(), *without.unacceptable.values()):
        assert all(math.isnan(each) for each in area)
        assert shown(area) == "-"


def test_examples_show_what_is_at_stake() -> None:
    first, second, third = target(1.0, True), target(3.0, True), target(2.0, True, document=1)
    pairs: list[tuple[Target, acceptability.Verdict]] = [
        *((each, "acceptable") for each in (first, second, third)),
        (target(9.0, True), "unacceptable"),
        (target(9.0, False), "acceptable"),
    ]
    assert page.examples(pairs, factual=True, verdict="acceptable") == [second, third]
    odd = Target(0, "x" * 99 + "<", "Rome\nfell", "Rome", " \n", 2.0, True, True)
    shown = page.example_markup(odd)
    assert re.sub(r"<[^>]*>", "", shown) == f"…{'x' * 89}&lt;Rome↵\nfell… the model:  ↵\n loss 2.0"
    assert "<b>Rome</b>" in shown
    assert "<s>␣</s>" in page.example_markup(dataclasses.replace(odd, said=" "))


def test_few_mismatches_are_not_spread_over_bins() -> None:
    pairs: list[tuple[Target, acceptability.Verdict]] = [(target(n / 9, True), "acceptable") for n in range(29)]
    assert str(page.loss_chart(pairs).svg).count("<circle") == 2
    assert page.loss_chart([]).svg is None


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("Yes", "acceptable"),
        ("**No**, another date", "unacceptable"),
        (" no.", "unacceptable"),
        ("Not sure", "unclear"),
        ("Note: it fits.", "unclear"),
        ("Not", "unclear"),
        ("Yesterday", "unclear"),
        ("Yes, it is.", "acceptable"),
        ("", "unclear"),
        (None, "unanswered"),
    ],
)
def test_verdicts(answer: str | None, verdict: str) -> None:
    assert acceptability.verdict_of(answer) == verdict


def test_targets_are_the_models_own(small_run: Path, small_data: Prepared) -> None:
    slm = load_model(str(small_run))
    documents = list(small_data.validation_documents())
    targets = acceptability.read_targets(slm, documents)
    assert {each.document for each in targets} == set(range(len(documents)))
    flags_of = [
        factual_tokens(e.starts, e.ends, text=full_text(d), spans=s)[: slm.model.context]
        for d, s in documents
        for e in [slm.tokenizer.encode(full_text(d))]
    ]
    assert 0 < sum(each.factual for each in targets) <= sum(int(each.sum()) for each in flags_of)
    text = full_text(documents[1][0])
    own = [each for each in targets if each.document == 1]
    assert all(text.startswith(each.before + each.after) for each in own)
    assert all(each.after.startswith(each.token) for each in own)
    # One after the other, by a forward pass of its own.
    ids = [slm.tokenizer.start_id, *slm.tokenizer.encode(text).ids][: slm.model.context]
    hidden = np.asarray(decoder.forward(slm.params, jnp.array([ids]), config=slm.model), np.float64)
    logits = hidden[0] @ np.asarray(decoder.output_matrix(slm.params), np.float64).T
    logits = logits[:, : slm.tokenizer.call_id]
    losses = np.log(np.exp(logits).sum(axis=-1))[:-1] - logits[np.arange(len(ids) - 1), ids[1:]]
    best = logits.argmax(axis=-1)
    encoding = slm.tokenizer.encode(text)
    at_start = {int(start): at for at, start in enumerate(encoding.starts)}
    assert len(own) > 20
    for each in own[:-1]:
        at = at_start[len(each.before)] if len(each.before) < acceptability.BEFORE else None
        if at is not None and at < len(losses):
            assert each.loss == pytest.approx(losses[at], abs=1e-3)
            assert each.said == acceptability.said_by(slm, int(best[at]))
            assert each.token == text[encoding.starts[at] : encoding.ends[at]] != ""
            assert each.mismatch == (best[at] != ids[at + 1])
    assert acceptability.draw_mismatches(targets, count=5) == acceptability.draw_mismatches(targets, count=5)
    assert all(each.mismatch for each in acceptability.draw_mismatches(targets, count=10**6))


def test_a_run_is_judged_once(
    server: JudgeServer, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--documents=4", "--mismatches=40")
    assert run(server, small_run, tmp_path / "out", *words, "--dry_run") == 0
    said = capsys.readouterr().err
    assert "40 requests" in said
    assert f"judge: the server {server.url}, model" in said
    assert not server.bodies
    assert run(server, small_run, tmp_path / "out", *words, "--nodry_run") == 0
    first = capsys.readouterr()
    assert "| loss x factual |" in first.out
    asked = len(server.bodies)
    assert asked <= 40
    rows = [json.loads(line) for line in (tmp_path / "out/mismatches.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    for row in rows:
        begins = row["after"].lstrip()[:1]
        assert row["verdict"] == ("unacceptable" if begins.isupper() or begins.isdigit() else "acceptable")
    written = (tmp_path / "out/acceptability.html").read_text()
    assert "Which wrong tokens matter?" in written
    assert "<svg" in written
    assert run(server, small_run, tmp_path / "out", *words) == 0
    assert capsys.readouterr().out == first.out
    assert len(server.bodies) == asked


def test_what_goes_wrong_is_told(
    server: JudgeServer, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = itertools.count()
    server.answer = lambda _prompt, _count: Response("no", status_code=400) if next(every) % 3 == 0 else "Yes"
    assert run(server, small_run, tmp_path / "out", "--documents=2", "--mismatches=12") == 1
    said = capsys.readouterr().err
    assert "questions without an answer (4 x status 400) are left out" in said
    verdicts = [json.loads(line)["verdict"] for line in (tmp_path / "out/mismatches.jsonl").read_text().splitlines()]
    assert sorted(verdicts) == ["acceptable"] * 8 + ["unanswered"] * 4
    # The same command asks those four again, and no other.
    server.answer = lambda _prompt, _count: "No"
    before = len(server.bodies)
    assert run(server, small_run, tmp_path / "out", "--documents=2", "--mismatches=12") == 0
    assert len(server.bodies) - before == 4
    verdicts = [json.loads(line)["verdict"] for line in (tmp_path / "out/mismatches.jsonl").read_text().splitlines()]
    assert sorted(verdicts) == ["acceptable"] * 8 + ["unacceptable"] * 4
    assert enter(door.DOOR, [f"--judge={server.url}#m", f"--out={tmp_path}"]) == 2
    assert "no checkpoint" in capsys.readouterr().err


def test_data_that_a_checkpoint_was_not_trained_on_is_not_judged(
    server: JudgeServer, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its settings may name any file of this machine, which the judge would then be sent."""
    secret = tmp_path / "secret.jsonl"
    secret.write_text("".join(f'{{"id": "{n}", "text": "The key is {n}. " }}\n' for n in range(50)))
    for corpus, words in (
        ({"name": "jsonl", "files": str(secret)}, "not what it was trained on"),
        ({"max_documents": 70}, "not what it was trained on"),
        ({"name": "tfds"}, "--corpus=tfds"),
    ):
        folder = tmp_path / "run"
        shutil.copytree(small_run / "checkpoints", folder / "checkpoints")
        path = folder / "checkpoints" / "6" / META_FILE
        meta = json.loads(path.read_text())
        meta["config"]["corpus"] |= corpus
        del meta["sha256"]
        path.write_text(json.dumps(meta))
        assert run(server, folder, tmp_path / "out", "--documents=2", "--mismatches=4") == 2
        assert words in capsys.readouterr().err
        assert not server.bodies
        shutil.rmtree(folder)
