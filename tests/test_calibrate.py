"""The price of a wanted share: against a grid by hand, saved and loaded again, and what cannot be had."""

import dataclasses
import errno
import importlib
import json
import tempfile
from pathlib import Path

import pytest

from lacy_jax import calibrate, generate
from lacy_jax.adaptation.calibrate import CLOSE, PRICES, Spent, best_of, held_out_prompts, rounds
from lacy_jax.cascade import Cascade, Counts, Request
from lacy_jax.checkpoints.checksums import is_genuine, signed
from lacy_jax.checkpoints.exports.hf_folder import cascade_settings
from lacy_jax.checkpoints.exports.layout import outgoing
from lacy_jax.checkpoints.format import META_FILE
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import CorpusConfig, Score
from lacy_jax.data.corpus import corpus_fingerprint
from lacy_jax.data.documents import split_of
from lacy_jax.doors import Door, enter
from lacy_jax.errors import ConfigError, DataError, PartnerError
from tests.cascade.conftest import TEXTS, random_model, write_checkpoint
from tests.cascade.test_cascade import PROMPTS, Fake

TOKENS = 12
SHORT = [prompt[:30] for prompt in PROMPTS]
STARTS = [text[:30] for text in TEXTS[:8]]


def answer(text: str) -> str:
    """One letter, and nothing at every third length."""
    return "x" if len(text) % 3 else ""


def tried(cascade: Cascade, *, share: float) -> list[Spent]:
    requests = [Request(prompt, max_new_tokens=TOKENS) for prompt in SHORT]
    return list(rounds(cascade, requests, share=share, batch_size=8, progress=lambda *_: None))


@pytest.mark.parametrize("score", [pytest.param("uncertainty", marks=pytest.mark.slow), "call_score"])
def test_the_price_is_that_of_a_grid(score: Score) -> None:
    def share_at(price: float) -> float:
        """By the cascade's own setting, counted piece by piece."""
        cascade = Cascade(random_model(), Fake(answer), score=score, policy="price", price=price, budget=1.0)
        rows = cascade.generate(SHORT, max_new_tokens=TOKENS)
        answered = sum(piece.tokens for row in rows for piece in row.pieces if piece.source == "partner")
        generated = sum(row.counts.generated for row in rows)
        return (answered + sum(row.counts.fallbacks for row in rows)) / generated

    share = 0.2
    found = tried(Cascade(random_model(), Fake(answer), score=score, budget=0.0), share=share)
    best = best_of(found, share=share)
    assert len(found) <= 10
    assert best.price in PRICES
    assert best.share == share_at(best.price)
    assert best.share <= share
    more = [each.price for each in found if each.share > share]
    assert all(price < best.price for price in more)
    # The step of the grid below is half a log-odds.
    grid = {price: share_at(price) for price in PRICES[1:-1:16] if min(more, default=0) <= price <= best.price}
    assert grid
    assert best.share >= max((each for each in grid.values() if each <= share), default=0) - CLOSE * share


def test_what_cannot_be_had_is_said() -> None:
    def spent(price: float, tokens: int) -> Spent:
        return Spent(price, Counts(generated=100, delegated=tokens, calls=tokens))

    found = [spent(0.5, 2), spent(0.2, 8), spent(0.1, 20), spent(0.3, 8)]
    assert best_of(found, share=0.1) == spent(0.3, 8)
    assert best_of(found, share=0.2) == spent(0.1, 20)
    with pytest.raises(ConfigError, match=r"--share=0.3 cannot be reached: .* spends 0.200 at most \(at price 0.1\)"):
        best_of(found, share=0.3)
    with pytest.raises(ConfigError, match=r"the least that they spent is 0.020, at price 0.5; give more prompts"):
        best_of(found, share=0.01)


def test_a_share_out_of_reach_ends_at_the_price_0() -> None:
    found = tried(Cascade(random_model(), Fake(lambda text: "x" if len(text) % 4 == 0 else "")), share=0.999)
    assert found[-1].price == 0.0
    assert max(each.share for each in found) < 0.9


def test_a_partner_without_answers_has_no_price() -> None:
    with pytest.raises(PartnerError, match=r"the partner answered none of \d+ questions"):
        tried(Cascade(random_model(), Fake(lambda _: "")), share=0.2)


def test_a_price_is_a_probability_and_needs_text() -> None:
    with pytest.raises(ConfigError, match=r"^price: the score entropy is no probability"):
        tried(Cascade(random_model(), Fake(answer), score="entropy"), share=0.2)
    requests = [Request("In 18", max_new_tokens=0)]
    with pytest.raises(DataError, match="writes nothing after these prompts"):
        list(rounds(Cascade(random_model(), Fake(answer)), requests, share=0.2, batch_size=1, progress=lambda *_: None))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint whose description is signed, documents, and prompts."""
    checkpoint = write_checkpoint(random_model(), tmp_path / "export")
    meta = json.loads((checkpoint / META_FILE).read_text())
    (checkpoint / META_FILE).write_text(json.dumps(signed(meta | {"more": [1]})))
    lines = [json.dumps({"id": str(n), "title": "", "text": text}) for n, text in enumerate(TEXTS[:4])]
    for name in ("texts", "others"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "prompts.txt").write_text("\n".join(STARTS))
    return tmp_path


def ended(door: Door, folder: Path, *words: str) -> int:
    partner = f"--partner=documents:{folder}/texts.jsonl"
    return enter(door, [f"--checkpoint={folder}/export", partner, f"--directory={folder}", *words])


def wanted(folder: Path) -> tuple[str, ...]:
    return f"--prompts_file={folder}/prompts.txt", f"--max_new_tokens={TOKENS}", "--share=0.2"


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_price_is_saved_and_nothing_else_changes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, description = files(folder / "export"), folder / "export" / META_FILE
    assert ended(calibrate.DOOR, folder, *wanted(folder), "--dry_run") == 0
    assert files(folder / "export") == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("nothing is saved; other commands take --policy=price --price=0.")
    assert ended(calibrate.DOOR, folder, *wanted(folder), "--budget=0.3") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:-2] == lines[:-2]  # every round, and which one it is
    after = files(folder / "export")
    assert {path for path in after if after[path] != before.get(path)} == {description}

    old, new = json.loads(before[description]), json.loads(after[description])
    assert is_genuine(new)
    assert new["more"] == [1]
    price = float(lines[-1].rpartition("=")[2])
    change = {"policy": "price", "price": price, "budget": 0.3, "partner": f"documents:{folder}/texts.jsonl"}
    assert new["config"]["cascade"] == old["config"]["cascade"] | change
    for meta in (old, new):
        del meta["config"]["cascade"], meta["sha256"]
    assert {name: new[name] for name in old} == old
    assert (new["calibration"]["wanted"], new["calibration"]["texts"]) == (0.2, 8)
    assert out[-3].startswith(f"price {price:g}")
    assert f"share {new['calibration']['share']:.3f}" in out[-3]


@pytest.mark.slow
def test_others_take_the_price(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(calibrate.DOOR, folder, *wanted(folder)) == 0
    saved = load_model(f"{folder}/export")
    cascade = saved.config.cascade
    assert (
        enter(
            importlib.import_module("lacy_jax.export").DOOR, [f"--checkpoint={folder}/export", f"--out={folder}/copy"]
        )
        == 0
    )
    copy = load_model(f"{folder}/copy")
    assert (copy.config.cascade, copy.calibration) == (cascade, saved.calibration)
    assert {"policy": "price", "price": cascade.price}.items() <= cascade_settings(outgoing(saved)).items()
    capsys.readouterr()

    prompts = f"--prompts_file={folder}/prompts.txt"
    assert ended(generate.DOOR, folder, prompts, f"--max_new_tokens={TOKENS}", "--json") == 0
    out, err = capsys.readouterr()
    by_hand = Cascade(saved, f"documents:{folder}/texts.jsonl", directory=str(folder))
    assert by_hand.settings == cascade
    texts = [completion.text for completion in by_hand.generate(STARTS, max_new_tokens=TOKENS)]
    assert [json.loads(line)["text"] for line in out.splitlines()] == texts
    assert "warning" not in err
    other = f"--partner=documents:{folder}/others.jsonl"
    for words, warned in (((), True), (("--price=0.5",), False), (("--policy=quantile",), False)):
        assert ended(generate.DOOR, folder, prompts, "--max_new_tokens=2", other, *words) == 0
        said = f"warning: the price {cascade.price:g} was found for the partner documents:{folder}/texts.jsonl; "
        assert (said in capsys.readouterr().err) == warned
    assert ended(generate.DOOR, folder, prompts, "--max_new_tokens=2", "--span=word") == 0
    assert f"warning: the price {cascade.price:g} was found for the span phrase; " in capsys.readouterr().err
    assert ended(calibrate.DOOR, folder, *wanted(folder), other) == 0  # a new price for another partner
    assert "warning" not in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert ended(calibrate.DOOR, folder, *wanted(folder)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "the price could not be saved: cannot write to" in err
    assert "Read-only file system" in err


def of_corpus(folder: Path, *, validation_share: float) -> LoadedModel:
    model = random_model()
    corpus = CorpusConfig(name="jsonl", files=f"{folder}/corpus.jsonl", validation_share=validation_share)
    config = dataclasses.replace(model.config, corpus=corpus)
    return dataclasses.replace(model, config=config, data={"corpus": corpus_fingerprint(corpus)})


def test_texts_begin_as_held_out_documents_do(tmp_path: Path) -> None:
    names = [f"Name {n}" for n in range(40)]
    lines = [json.dumps({"id": name, "title": name, "text": f"{name} is one of many others here."}) for name in names]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    expected = [
        f"{name}\n\n{name} is one of many" for name in names if split_of(name, validation_share=0.3) == "validation"
    ]
    model = of_corpus(tmp_path, validation_share=0.3)
    directory = str(tmp_path)
    assert held_out_prompts(model, directory=directory, count=100) == expected
    assert held_out_prompts(model, directory=directory, count=1) == expected[:1]
    assert len(expected) in range(9, 16)
    assert held_out_prompts(model, directory=directory, count=len(expected) // 2)[:3] == expected[:6:2]
    with pytest.raises(ConfigError, match=r"has no held-out documents; give --prompts_file=FILE"):
        held_out_prompts(of_corpus(tmp_path, validation_share=1e-9), directory=directory, count=3)
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(ConfigError, match=r"held-out documents cannot be read \(.*give --prompts_file=FILE"):
        held_out_prompts(model, directory=directory, count=3)
