"""`calibrate --score=expected_saving`: the probe is saved with the price and used; what cannot be had is said."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from lacy_jax import calibrate, generate
from lacy_jax.adaptation.calibrate import own_documents
from lacy_jax.adaptation.saving import learn_saving
from lacy_jax.cascade import Cascade
from lacy_jax.checkpoints.exports.hf_folder import cascade_settings
from lacy_jax.checkpoints.exports.layout import outgoing
from lacy_jax.checkpoints.format import META_FILE
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.doors import enter
from tests.cascade.conftest import TEXTS, random_model, write_checkpoint
from tests.test_calibrate import of_corpus

SCORE = "--score=expected_saving"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, the checkpoint of a model of it, and that of a partner."""
    folder = tmp_path_factory.mktemp("saving")
    lines = [json.dumps({"id": f"{n}", "title": f"Nr. {n}", "text": TEXTS[n % len(TEXTS)][n:]}) for n in range(24)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    write_checkpoint(of_corpus(folder, validation_share=0.3), folder / "slm")
    write_checkpoint(random_model("llama", size=460, seed=7), folder / "partner")
    return folder


def words(place: Path, *more: str) -> list[str]:
    shared = [f"--checkpoint={place}/slm", f"--partner=checkpoint:{place}/partner", f"--directory={place}/data"]
    return [*shared, *more]


def test_the_probe_is_saved_with_its_price_and_used(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--share=0.2", "--documents=12", "--samples=4", "--max_new_tokens=24", "--span=word")
    before = (place / "slm" / META_FILE).read_bytes()
    assert enter(calibrate.DOOR, words(place, SCORE, *few, "--dry_run")) == 0
    assert capsys.readouterr().out.endswith("nothing is saved, so no other command can call by expected_saving\n")
    assert (place / "slm" / META_FILE).read_bytes() == before
    assert enter(calibrate.DOOR, words(place, SCORE, *few)) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("bits per byte of ")
    saved, slm = load_model(f"{place}/slm"), random_model()

    train, held_out = (
        own_documents(saved, split=split, directory=str(place), count=count, instead="")  # type: ignore[arg-type]
        for split, count in (("train", 12), ("validation", 3))
    )
    partner = load_model(f"{place}/partner")
    expected, pieces = learn_saving(slm, partner, train, held_out, folder=place / "apart", progress=lambda *_: None)
    assert saved.saving_probe is not None
    assert expected.saving_probe is not None
    np.testing.assert_allclose(saved.probes, expected.probes, rtol=1e-4, atol=1e-5)
    assert f"{pieces.bits_per_byte(pieces.saved, share=0.0):.3f} alone" in out.splitlines()[0]
    settings = saved.config.cascade
    assert (settings.score, settings.policy) == ("expected_saving", "price")

    prompts = [document.text[:40] for document in held_out]
    (place / "prompts.txt").write_text("\n".join(prompts))
    assert (
        enter(generate.DOOR, words(place, f"--prompts_file={place}/prompts.txt", "--max_new_tokens=24", "--json")) == 0
    )
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_hand = Cascade(saved, f"checkpoint:{place}/partner").generate(prompts, max_new_tokens=24)
    assert [each["text"] for each in printed] == [each.text for each in by_hand]
    assert any(piece.source == "partner" for each in by_hand for piece in each.pieces)
    for each in by_hand:
        called = [piece.score for piece in each.pieces if piece.source == "partner"]
        assert all(score > settings.price for score in called)

    other = [f"--checkpoint={place}/slm", f"--partner=checkpoint:{place}/slm", "--prompt=A", "--max_new_tokens=2"]
    for more, warned in (["--policy=quantile"], True), (["--policy=quantile", "--score=entropy"], False):
        assert enter(generate.DOOR, [*other, *more]) == 0
        said = f"warning: what it expects to save was learned of the partner checkpoint:{place}/partner; "
        assert (said in capsys.readouterr().err) == warned

    arguments = [f"--checkpoint={place}/slm", f"--out={place}/copy"]
    assert enter(importlib.import_module("lacy_jax.export").DOOR, arguments) == 0
    assert load_model(f"{place}/copy").saving_probe == saved.saving_probe
    assert cascade_settings(outgoing(saved))["saving_probe"] == saved.saving_probe.to_dict()
    assert enter(calibrate.DOOR, words(place, "--score=uncertainty", *few)) == 0  # of no use to this score
    assert load_model(f"{place}/slm").saving_probe is None


def test_what_cannot_be_had_is_one_line(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = write_checkpoint(of_corpus(place, validation_share=0.3), tmp_path / "own")
    shared = ["--share=0.2", f"--directory={tmp_path}"]
    model = f"--partner=checkpoint:{place}/partner"
    cases = [
        (generate.DOOR, own, [model, SCORE, "--prompt=A"], "has no probe for what a partner saves; python -m"),
        (
            calibrate.DOOR,
            own,
            [f"--partner=documents:{place}/corpus.jsonl", SCORE, *shared],
            "is no model, so it is not known what it pays",
        ),
        (calibrate.DOOR, own, [SCORE, *shared], "the partner documents is no model"),
        (calibrate.DOOR, own, [f"--partner=checkpoint:{tmp_path}/none", SCORE, *shared], "none"),
    ]
    for door, checkpoint, arguments, said in cases:
        assert enter(door, [f"--checkpoint={checkpoint}", *arguments]) == 2, arguments
        out, err = capsys.readouterr()
        assert said in err
        assert (out, err.strip().count("\n")) == ("", 0)


def test_a_checkpoint_without_text_of_its_own_says_so(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    silent = write_checkpoint(random_model(), tmp_path / "silent")
    (tmp_path / "prompts.txt").write_text("A text")
    arguments = [f"--checkpoint={silent}", f"--partner=checkpoint:{place}/partner", SCORE, "--share=0.2"]
    assert enter(calibrate.DOOR, [*arguments, f"--prompts_file={tmp_path}/prompts.txt"]) == 2
    assert "does not say what it was trained on, so no training text is known; take another" in capsys.readouterr().err
