"""What commit 60e64f2 left on disk is still opened, and comes to the same numbers (tests/data/made_by_60e64f2)."""

import base64
import dataclasses
import hashlib
import importlib.metadata
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import traverse_util

from lacy_jax.cascade import Cascade
from lacy_jax.cascade.decoding.engine import Engine, encode_text
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.checks import parse
from lacy_jax.config import Config
from lacy_jax.console import Reporter
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared
from lacy_jax.training.loop import train

MADE = Path(__file__).parent / "data" / "made_by_60e64f2"
SCORES = json.loads((MADE / "scores.json").read_text())
RESUMED = json.loads((MADE / "resumed.json").read_text())
CLOCKS = {"seconds", "tokens_per_second", "mfu"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The settings of the run, in a copy of the folder; all its paths are relative."""
    shutil.copytree(MADE, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    # The tokenizer's folder is named after the SentencePiece that trained it; here it is only read.
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: {"sentencepiece": "0.2.3"}.get(name) or version(name)
    )
    return parse(runpy.run_path("config.py")["get_config"]())


def contents(folder: str) -> dict[str, str]:
    """The files under a folder, by their hashes."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def windows(prepared: Prepared) -> list[tuple[Any, ...]]:
    sources = (prepared.train, prepared.validation)
    records = [source[index] for source in sources for index in range(len(source))]
    return [(each["tokens"].tolist(), each["factual"].tolist(), each["length"]) for each in records]


def arrays(params: Any) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def test_the_settings_are_those_of_the_checkpoint(config: Config) -> None:
    assert config.method == "lacy_full"
    assert load_model("run").config == config


def test_prepared_data_is_found(config: Config) -> None:
    before, stages = contents("data"), []
    prepared = prepare(config, progress=lambda stage, _done, _total: stages.append(stage))
    assert stages == []
    assert prepared.packed.directory == Path("data/packed/jsonl-d27795ed75fd/1.0.0")
    assert (len(prepared.train), len(prepared.validation)) == (47, 12)
    assert [document.id for document, _ in prepared.validation_documents()] == ["tarn-05", "tarn-07"]
    new = contents("data")
    assert {path: new.get(path) for path in before} == before
    assert {Path(path).name for path in new.keys() - before.keys()} <= {"files.json", ".lock"}
    elsewhere = dataclasses.replace(config.data, packed=str(prepared.packed.directory), directory="nowhere")
    assert windows(prepare(dataclasses.replace(config, data=elsewhere))) == windows(prepared)


def test_prepared_anew_it_is_the_same(config: Config) -> None:
    then = prepare(config)
    anew = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, directory="anew"),
        tokenizer=dataclasses.replace(config.tokenizer, path=str(then.packed.directory / "tokenizer.model")),
    )
    now = prepare(anew)
    assert now.packed.directory == Path("anew") / then.packed.directory.relative_to("data")
    assert now.fingerprint == then.fingerprint
    assert list(now.documents()) == list(then.documents())
    assert windows(now) == windows(then)


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize("folder", ["run", "export"])
def test_the_model_is_the_same_and_says_the_same(folder: str) -> None:
    slm = load_model(folder)
    assert {
        path: hashlib.sha256(leaf.astype("<f4").tobytes()).hexdigest() for path, leaf in arrays(slm.params).items()
    } == RESUMED["params_before"]
    assert (slm.step, slm.learned_to_call, slm.family, len(slm.call_scores)) == (300, True, "", 201)
    assert slm.factual_probe is not None
    engine = Engine(slm)
    for expected in SCORES["texts"]:
        ids = encode_text(slm.tokenizer, expected["text"])
        assert ids == expected["ids"]
        session = Session(engine, slots=1)
        for count, values in enumerate([*expected["prefix_steps"], expected["step"].values()], start=1):
            step = session.steps({0: ids[:count]})[0][0]
            token, *scores = values
            assert step.token == token
            found = [step.call_score, step.call_logit, step.uncertainty, step.entropy, step.factual]
            np.testing.assert_allclose(found, scores, atol=1e-4)
        row = Cascade(slm, None).generate([expected["text"]], max_new_tokens=8)[0]
        assert (row.text, row.finish) == (expected["greedy"], expected["finish"])


def test_a_finished_run_is_left_as_it_is(config: Config) -> None:
    before = contents("run/checkpoints")
    result = train(config, prepared=prepare(config), workdir="run", reporter=Reporter(quiet=True))
    assert (result.step, result.finished) == (300, True)
    assert contents("run/checkpoints") == before


@pytest.mark.slow
def test_it_resumes_to_the_same_figures(config: Config) -> None:
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=308, log_every=1))
    train(longer, prepared=prepare(longer), workdir="run", reporter=Reporter(quiet=True))
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    for split in ("train", "validation"):
        found = [each for each in records if each["split"] == split and each["step"] > 300]
        assert len(found) == len(RESUMED[split])
        for record, expected in zip(found, RESUMED[split], strict=True):
            assert {*record} - CLOCKS == {*expected}
            for name, value in expected.items():
                assert record[name] == (value if name == "split" else pytest.approx(value, abs=1e-4)), name
    params = arrays(load_model("run").params)
    for path, kept in RESUMED["params"].items():
        expected = np.frombuffer(base64.b64decode(kept["float32"]), "<f4").reshape(params[path].shape)
        if path != "blocks/attention/key/bias":  # its true gradient is 0, of which Adam makes rounding alone
            np.testing.assert_allclose(params[path], expected, atol=1e-5, rtol=0, err_msg=path)
    assert params.keys() == RESUMED["params"].keys()
