"""`calibrate --score=expected_saving`: the probe is saved with the price and used; what cannot be had is said."""

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lacy_jax import calibrate, generate
from lacy_jax.adaptation import saving
from lacy_jax.adaptation.calibrate import held_out_prompts, own_documents
from lacy_jax.adaptation.saving import fit_saving, pieces_of, with_losses
from lacy_jax.cascade import Cascade
from lacy_jax.checkpoints.exports.hf_folder import cascade_settings
from lacy_jax.checkpoints.exports.layout import outgoing
from lacy_jax.checkpoints.format import META_FILE
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import CascadeConfig, CorpusConfig
from lacy_jax.data.corpus import corpus_fingerprint
from lacy_jax.data.documents import split_of
from lacy_jax.doors import enter
from lacy_jax.errors import ConfigError
from lacy_jax.model.probe import Probe
from tests.cascade.conftest import TEXTS, random_model, write_checkpoint
from tests.test_calibrate import of_corpus

SCORE = "--score=expected_saving"
FEW = ("--share=0.2", "--documents=12", "--samples=4", "--max_new_tokens=24", "--span=word")


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


@pytest.fixture(scope="module")
def calibrated(place: Path) -> tuple[LoadedModel, str]:
    """The model after the command that teaches it, and what that printed."""
    before, out = (place / "slm" / META_FILE).read_bytes(), io.StringIO()
    with contextlib.redirect_stdout(out):
        assert enter(calibrate.DOOR, words(place, SCORE, *FEW, "--dry_run")) == 0
        assert out.getvalue().endswith("nothing is saved, so no other command can call by expected_saving\n")
        assert (place / "slm" / META_FILE).read_bytes() == before
        out.truncate(0)
        assert enter(calibrate.DOOR, words(place, SCORE, *FEW)) == 0
    return load_model(f"{place}/slm"), out.getvalue().lstrip("\0")


def test_the_probe_is_that_of_training_documents(place: Path, calibrated: tuple[LoadedModel, str]) -> None:
    (saved, out), slm = calibrated, random_model()
    own = functools.partial(own_documents, saved, directory=str(place), instead="")
    train, held_out = own(split="train", count=12), own(split="validation", count=3)
    assert {split_of(each.id, validation_share=0.3) for each in train} == {"train"}
    partner = load_model(f"{place}/partner")
    read = [
        with_losses(partner, each, slm=slm, folder=place / "apart", progress=lambda *_: None)
        for each in (train, held_out)
    ]
    expected, other = (fit_saving(pieces_of(slm, each)) for each in read)
    pieces = pieces_of(slm, read[1])
    assert saved.saving_probe is not None
    np.testing.assert_allclose(saved.saving_probe.weights, expected.weights, rtol=1e-3, atol=1e-4)
    assert not np.allclose(saved.saving_probe.weights, other.weights, rtol=1e-2)
    assert out.startswith("bits per byte of 3 held-out documents, 0.2 of the tokens asked for:\n")
    assert f"{pieces.bits_per_byte(pieces.saved, share=0.0):.3f} alone" in out.splitlines()[1]


def test_others_call_by_it(
    place: Path, calibrated: tuple[LoadedModel, str], capsys: pytest.CaptureFixture[str]
) -> None:
    saved, _ = calibrated
    settings = saved.config.cascade
    assert (settings.score, settings.policy) == ("expected_saving", "price")
    prompts = [text[:40] for text in TEXTS[:4]]
    (place / "prompts.txt").write_text("\n".join(prompts))
    asked = words(place, f"--prompts_file={place}/prompts.txt", "--max_new_tokens=24", "--json")
    assert enter(generate.DOOR, asked) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_hand = Cascade(saved, f"checkpoint:{place}/partner").generate(prompts, max_new_tokens=24)
    assert [each["text"] for each in printed] == [each.text for each in by_hand]
    called = [piece.score for each in by_hand for piece in each.pieces if piece.source == "partner"]
    assert called
    assert min(called) > settings.price

    arguments = [f"--checkpoint={place}/slm", f"--out={place}/copy"]
    assert enter(importlib.import_module("lacy_jax.export").DOOR, arguments) == 0
    assert load_model(f"{place}/copy").saving_probe == saved.saving_probe
    assert saved.saving_probe is not None
    assert cascade_settings(outgoing(saved))["saving_probe"] == saved.saving_probe.to_dict()


def test_another_partner_is_warned_of(
    place: Path, calibrated: tuple[LoadedModel, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrated
    other = [f"--checkpoint={place}/slm", f"--partner=checkpoint:{place}/slm", "--prompt=A", "--max_new_tokens=2"]
    for more, warned in (["--policy=quantile"], True), (["--policy=quantile", "--score=entropy"], False):
        assert enter(generate.DOOR, [*other, *more]) == 0
        said = f"warning: what it expects to save was learned of the partner checkpoint:{place}/partner; "
        assert (said in capsys.readouterr().err) == warned


def test_another_score_takes_it_out(place: Path, calibrated: tuple[LoadedModel, str], tmp_path: Path) -> None:
    assert calibrated
    shutil.copytree(place / "slm", tmp_path / "slm")
    kept = [word for word in words(place, "--score=uncertainty", *FEW) if not word.startswith(("--doc", "--checkp"))]
    assert enter(calibrate.DOOR, [f"--checkpoint={tmp_path}/slm", *kept]) == 0
    assert load_model(f"{tmp_path}/slm").saving_probe is None


def test_what_cannot_be_had_is_one_line(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = write_checkpoint(of_corpus(place, validation_share=0.3), tmp_path / "own")
    named = CascadeConfig(score="expected_saving", partner=f"checkpoint:{tmp_path}/secret")
    asks = of_corpus(place, validation_share=0.3)
    asks = dataclasses.replace(asks, config=dataclasses.replace(asks.config, cascade=named))
    asking = write_checkpoint(asks, tmp_path / "asking")
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
        (calibrate.DOOR, own, [model, SCORE, "--gate=factual", *shared], "gate='factual': "),
        (calibrate.DOOR, own, [model, SCORE, "--start_token=</t>", *shared], "start_token=</t>: "),
        (calibrate.DOOR, own, [model, "--documents=9", *shared], "--documents says from how many documents"),
        (calibrate.DOOR, own, [model, SCORE, "--share=0.2", "--directory=gs://b/d"], "must be a folder on a disk"),
        (calibrate.DOOR, asking, [SCORE, *shared], f"add --partner=checkpoint:{tmp_path}/secret, or --partner=none"),
        (calibrate.DOOR, own, [f"--partner=checkpoint:{tmp_path}/none", SCORE, *shared], "none"),
        (calibrate.DOOR, own, [model, SCORE, *shared, "--corpus=tfds"], "--corpus=tfds: the corpus of"),
    ]
    for door, checkpoint, arguments, said in cases:
        assert enter(door, [f"--checkpoint={checkpoint}", *arguments]) == 2, arguments
        out, err = capsys.readouterr()
        assert said in err
        assert (out, err.strip().count("\n")) == ("", 0)


def test_a_partner_that_saves_nothing_is_refused_before_any_text_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path alone names it, too."""
    loses = Probe(weights=(0.0,) * 32, bias=-0.1)
    monkeypatch.setattr(saving, "fit_saving", lambda _: loses)
    own = write_checkpoint(of_corpus(place, validation_share=0.3), tmp_path / "own")
    arguments = [f"--checkpoint={own}", f"--partner={own}", SCORE, "--share=0.2", f"--directory={tmp_path}"]
    assert enter(calibrate.DOOR, arguments) == 2
    assert "is expected to save nothing, anywhere in held-out documents" in capsys.readouterr().err


def test_a_corpus_that_may_run_code_is_read_only_if_asked(tmp_path: Path) -> None:
    slm = random_model()
    config = dataclasses.replace(slm.config, corpus=CorpusConfig(name="tfds", tfds_name="no/such"))
    slm = dataclasses.replace(slm, config=config, data={"corpus": {}})
    with pytest.raises(ConfigError, match=r"names the corpus tfds \(no/such in its usual folder\), which may run code"):
        held_out_prompts(slm, directory=str(tmp_path), count=3)
    with pytest.raises(ConfigError, match="held-out documents cannot be read"):
        held_out_prompts(slm, directory=str(tmp_path), count=3, agreed=True)


def test_a_checkpoint_without_text_of_its_own_says_so(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    silent = write_checkpoint(random_model(), tmp_path / "silent")
    (tmp_path / "prompts.txt").write_text("A text")
    arguments = [f"--checkpoint={silent}", f"--partner=checkpoint:{place}/partner", SCORE, "--share=0.2"]
    assert enter(calibrate.DOOR, [*arguments, f"--prompts_file={tmp_path}/prompts.txt"]) == 2
    assert "does not say what it was trained on, so no training text is known; take another" in capsys.readouterr().err


WRITE_TFDS = """
import json, sys
import tensorflow_datasets as tfds

class Leads(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"title": text, "text": text}))
    def _split_generators(self, dl_manager):
        return {"train": (each for each in enumerate(map(json.loads, open(sys.argv[2]))))}
    def _generate_examples(self):
        pass

Leads(data_dir=sys.argv[1]).download_and_prepare(file_format="array_record")
"""


def test_a_corpus_of_tfds_is_learned_from_if_it_is_named(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without its name it is not opened, neither for the probe nor for what the texts begin with."""
    documents = map(json.loads, (place / "corpus.jsonl").read_text().splitlines())
    lines = [{name: each[name] for name in ("title", "text")} for each in documents]
    (tmp_path / "leads.jsonl").write_text("\n".join(map(json.dumps, lines)))
    written = [sys.executable, "-c", WRITE_TFDS, str(tmp_path / "tfds"), str(tmp_path / "leads.jsonl")]
    subprocess.run(written, check=True, capture_output=True)
    corpus = CorpusConfig(name="tfds", tfds_name="leads", tfds_dir=str(tmp_path / "tfds"), validation_share=0.3)
    slm = random_model()
    config = dataclasses.replace(slm.config, corpus=corpus)
    slm = dataclasses.replace(slm, config=config, data={"corpus": corpus_fingerprint(corpus)})
    own = write_checkpoint(slm, tmp_path / "own")
    arguments = [f"--checkpoint={own}", f"--partner=checkpoint:{place}/partner", f"--directory={tmp_path}", SCORE, *FEW]
    (tmp_path / "prompts.txt").write_text("A text")
    for more in ([], [f"--prompts_file={tmp_path}/prompts.txt"]):
        assert enter(calibrate.DOOR, [*arguments, *more]) == 2
        assert "is read only if you agree: add --corpus=tfds" in capsys.readouterr().err
    assert enter(calibrate.DOOR, [*arguments, "--corpus=tfds"]) == 0
    assert "bits per byte of " in capsys.readouterr().out
    probe = load_model(str(own)).saving_probe
    assert probe is not None
    assert any(probe.weights)
