"""A run that starts from a pretrained model: its sizes, weights and tokenizer, and no need of its files later."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lacy_jax import api
from lacy_jax.checkpoints.initial import OWN, initial_params, with_initial
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import Config, TokenizerConfig
from lacy_jax.errors import LacyError
from lacy_jax.model import decoder
from lacy_jax.training.loop import train
from lacy_jax.training.metrics import read_metrics
from tests.hf_folders import random_tensors, settings_of, write_folder
from tests.training.test_loop import Killed, KillingReporter

STYLES = ("gpt2", "llama3", "llama2")  # llama2: its output matrix is one of its own


def written(folder: Path, style: str) -> Path:
    settings = settings_of(style)
    return write_folder(folder, style, settings=settings, tensors=random_tensors(settings))


def same_arrays(one: Any, other: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, np.asarray(b)), one, other)))


def from_model(config: Config, path: Path | str, **changes: object) -> Config:
    model = dataclasses.replace(config.model, initial=str(path), **changes)
    return dataclasses.replace(config, model=model)


@pytest.mark.parametrize("style", STYLES)
def test_parameters_are_the_models_and_call_is_its_average_token(
    small_config: Config, tmp_path: Path, style: str
) -> None:
    folder = written(tmp_path / "model", style)
    there = load_model(str(folder))
    config, tokenizer = with_initial(from_model(small_config, folder))
    assert tokenizer is not None
    assert config.tokenizer.vocab_size == there.tokenizer.call_id == tokenizer.call_id
    for name, value in dataclasses.asdict(there.model).items():
        expected = getattr(small_config.model, name) if name in OWN[1:] else value
        assert getattr(config.model, name) == (str(folder) if name == "initial" else expected), name
    params = initial_params(config)
    expected_shapes = jax.eval_shape(
        lambda: decoder.init_params(
            config.model, vocab=decoder.padded_vocab(tokenizer.vocab_size), key=jax.random.key(0)
        )
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), expected_shapes
    )
    call = tokenizer.call_id
    for table in {"embedding", "output"} & params.keys():
        ours, theirs = (np.asarray(each[table]["embedding"], np.float64) for each in (params, there.params))
        np.testing.assert_array_equal(ours[:call], theirs[:call])
        np.testing.assert_allclose(ours[call], theirs[:call].mean(axis=0), atol=1e-7)
        assert not ours[call + 1 :].any()
    assert same_arrays(params["blocks"], there.params["blocks"])


@pytest.mark.slow
def test_a_run_from_it_goes_on_without_it_and_is_a_checkpoint_like_any_other(
    small_config: Config, tmp_path: Path
) -> None:
    folder = written(tmp_path / "model", "llama3")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    own = load_model(str(folder))
    config = from_model(small_config, folder)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, directory=str(tmp_path / "data")))
    straight = api.train(config, workdir=str(tmp_path / "straight"), say="nothing")
    first = read_metrics(str(tmp_path / "straight"))[0]
    assert api.prepare(config, say="nothing").tokenizer.definition == own.tokenizer.definition
    whole, prepared = with_initial(config)[0], api.prepare(config, say="nothing")
    with pytest.raises(Killed):
        train(whole, prepared=prepared, workdir=str(tmp_path / "halves"), reporter=KillingReporter(at=5))
    with_rest = api.train(config, workdir=str(tmp_path / "halves"), say="nothing")
    assert with_rest.step == straight.step == 6
    assert same_arrays(load_model(str(tmp_path / "halves")).params, load_model(str(tmp_path / "straight")).params)
    assert first["loss"] > 0
    shutil.rmtree(folder)
    loaded = load_model(str(tmp_path / "straight"))
    assert loaded.learned_to_call
    assert loaded.chat == own.chat is not None
    assert loaded.tokenizer.encode("Ulm, 1879").ids.tolist() == own.tokenizer.encode("Ulm, 1879").ids.tolist()
    assert (loaded.tokenizer.start_id, loaded.tokenizer.end_id) == (own.tokenizer.start_id, own.tokenizer.end_id)


def test_one_of_ours_starts_a_run_too(small_config: Config, small_run: Path) -> None:
    config, tokenizer = with_initial(from_model(small_config, small_run, layers=7))
    there = load_model(str(small_run))
    assert config.model.layers == there.model.layers
    assert tokenizer is not None
    assert tokenizer.fingerprint == there.tokenizer.fingerprint
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):  # as a run does
        params = initial_params(config)
    assert same_arrays(params, there.params)


def test_what_does_not_fit_is_one_line(small_config: Config, tmp_path: Path) -> None:
    folder = written(tmp_path / "model", "gpt2")
    with pytest.raises(LacyError, match=r"^config\.model\.initial: no checkpoint at .*nowhere"):
        with_initial(from_model(small_config, "nowhere"))
    with pytest.raises(LacyError, match=r"^config\.model\.context: 97 is more than the 96 .*context=96$"):
        with_initial(from_model(small_config, folder, context=97))
    named = dataclasses.replace(from_model(small_config, folder), tokenizer=TokenizerConfig(path="some.model"))
    with pytest.raises(LacyError, match=r"^config\.tokenizer\.path: config\.model\.initial brings its own"):
        with_initial(named)
    config, _ = with_initial(from_model(small_config, folder))
    shutil.rmtree(folder)
    written(folder, "llama3")
    with pytest.raises(LacyError, match="is another model than when this run was set up"):
        initial_params(config)
