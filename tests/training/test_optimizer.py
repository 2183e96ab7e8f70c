"""Schedules, Muon and the average of weights, each beside a slow computation of the same by hand."""

import dataclasses
import json
import math
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from lacy_jax import api
from lacy_jax.checkpoints.format import META_FILE, model_meta, read_meta
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.checks import parse
from lacy_jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from lacy_jax.console import Reporter
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import CheckpointError, ConfigError
from lacy_jax.model import decoder
from lacy_jax.paths import copy_command
from lacy_jax.runtime import sharding
from lacy_jax.training import announce, checkpoints, optimizer
from lacy_jax.training.loop import train
from lacy_jax.training.metrics import read_metrics
from lacy_jax.training.optimizer import average, learning_rate, make_optimizer
from lacy_jax.training.state import init_state, state_shardings
from lacy_jax.training.step import jit_train_step
from tests.hf_folders import random_tensors, settings_of, write_folder
from tests.training.test_announce import after
from tests.training.test_loop import Killed, KillingReporter, arrays, records
from tests.training.test_numbers import HearingReporter, steps
from tests.training.test_step import CALL, CONFIG, VOCAB, make_batch, run_batches


def with_optimizer(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **changes))


def with_steps(config: Config, count: int, **changes: Any) -> Config:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, steps=count, **changes))


# Warm-up, stable, decay


def rate(config: OptimizerConfig, *, step: int, progress: float) -> float:
    return float(learning_rate(config, step=jnp.int32(step), progress=jnp.float32(progress)))


def test_wsd_keeps_the_peak_and_falls_by_a_root_at_the_end() -> None:
    config = OptimizerConfig(learning_rate=2.0, schedule="wsd", decay_share=0.2, final_share=0.1, warmup_steps=10)
    for step in range(100):
        done = (step - 80) / 20  # of the decay
        expected = 2.0 * (0.1 + 0.9 * (1 - done**0.5)) if step >= 80 else 2.0 * min((step + 1) / 10, 1.0)
        assert rate(config, step=step, progress=step / 100) == pytest.approx(expected, rel=1e-3), step
    assert rate(config, step=100, progress=1.0) == pytest.approx(0.2)
    # Not nearly the peak: the very number, or a longer run would not go on with the same bits.
    assert {rate(config, step=step, progress=step / 100) for step in range(10, 81)} == {2.0}


def test_without_a_decay_the_peak_is_kept_to_the_end() -> None:
    config = OptimizerConfig(learning_rate=2.0, schedule="wsd", decay_share=0.0, warmup_steps=1)
    assert {rate(config, step=step, progress=step / 100) for step in range(100)} == {2.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decay_share": 0.3}, "config.optimizer.decay_share: only config.optimizer.schedule=wsd reads it"),
        ({"schedule": "wsd"}, "falls after 80 of 100 (config.optimizer.schedule=wsd); add --config.optimizer.warmup"),
        ({"schedule": "wds"}, "config.optimizer.schedule: got 'wds'"),
        ({"name": "moun"}, "config.optimizer.name: got 'moun'"),
        ({"ema_decay": 1.0}, "config.optimizer.ema_decay: got 1.0"),
    ],
)
def test_the_door_refuses_what_does_not_go_together(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse({"training": {"steps": 100}, "optimizer": changes})
    assert words in str(error.value)
    assert len(error.value.problems) == 1


def test_a_shorter_run_with_wsd_says_that_its_learning_rate_jumps() -> None:
    def of(count: int) -> Config:
        return with_optimizer(with_steps(Config(), count), schedule="wsd", warmup_steps=2)

    said = announce.describe_jump(of(100), of(1000), after(90))
    assert said.endswith("at step 91, because it falls after 80 steps")
    assert announce.describe_jump(of(2000), of(1000), after(700)) == ""
    said = announce.describe_jump(with_optimizer(of(1000), decay_share=0.5), of(1000), after(700))
    assert said.startswith("config.optimizer.decay_share is 0.5 and was 0.2: the learning rate jumps from 0.0005 to ")


def test_another_course_goes_on_from_before_the_decay_only(small_data: Prepared, tmp_path: Path) -> None:
    short = with_optimizer(with_steps(Config(), 6), schedule="wsd", decay_share=1 / 3, warmup_steps=1)
    for step, before in ((2, True), (4, True), (6, False)):
        meta = model_meta(short, tokenizer=small_data.tokenizer, step=step, data=small_data.fingerprint)
        path = tmp_path / str(step) / META_FILE
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(meta | {checkpoints.BEFORE_DECAY: before}))

    def resume(step: int, config: Config) -> None:
        folder = epath.Path(tmp_path / str(step))
        checkpoints._refuse_other_run(read_meta(folder), config, data=small_data.fingerprint, folder=folder)

    longer, later = with_steps(short, 12), with_optimizer(short, decay_share=1 / 6)
    for step, config in ((4, longer), (4, later), (2, longer), (6, short)):
        resume(step, config)
    for config in (longer, later, dataclasses.replace(short, training=TrainingConfig(tokens=6))):
        with pytest.raises(CheckpointError, match=r"fall after 4 of 6 steps .*cp -r \S*/4 NEW/checkpoints/") as error:
            resume(6, config)
        assert "\n" not in str(error.value)
    shutil.rmtree(tmp_path / "2")
    shutil.rmtree(tmp_path / "4")
    with pytest.raises(CheckpointError, match=r"no checkpoint from before that, so give this run another --workdir"):
        resume(6, longer)
    with pytest.raises(CheckpointError, match=r"config\.optimizer\.schedule: here 'cosine', there 'wsd'"):
        resume(6, with_optimizer(longer, schedule="cosine", decay_share=0.2))


@pytest.mark.parametrize(
    ("step", "command"),
    [
        ("/my runs/a/4", "mkdir -p NEW/checkpoints && cp -r '/my runs/a/4' NEW/checkpoints/"),
        ("gs://b/a/4", "gcloud storage cp -r gs://b/a/4 NEW/checkpoints/"),
        ("s3://b/a/4", "aws s3 cp --recursive s3://b/a/4 NEW/checkpoints/4"),
    ],
)
def test_a_step_is_copied_by_the_command_of_where_it_lies(step: str, command: str) -> None:
    assert copy_command(epath.Path(step), into="NEW/checkpoints") == command


def test_the_newest_of_some_steps_is_kept() -> None:
    some = set[int]()
    kept = checkpoints._Newest(some)
    infos = [SimpleNamespace(step=step) for step in (2, 4, 6)]
    assert kept.should_preserve(infos, context=None) == [False, False, False]
    some |= {2, 4, 8}
    assert kept.should_preserve(infos, context=None) == [False, True, False]


@pytest.mark.slow
def test_a_longer_run_goes_on_from_before_the_decay_to_the_same_bits(
    small_config: Config, small_data: Prepared, tmp_path: Path
) -> None:
    """Six steps, of which the last two decay, become twelve; in between every checkpoint but the newest goes."""
    short = with_optimizer(with_steps(small_config, 6, checkpoint_every=1, keep_checkpoints=1), schedule="wsd")
    short = with_optimizer(short, decay_share=1 / 3)
    longer = with_steps(short, 12)
    train(short, prepared=small_data, workdir=str(tmp_path / "short"), reporter=Reporter(quiet=True))
    assert steps(tmp_path / "short") == [4, 6]
    rates = [record["learning_rate"] for record in read_metrics(str(tmp_path / "short")) if record["split"] == "train"]
    assert rates[1:4] == [np.float32(1e-2)] * 3
    assert rates[4] > rates[5]

    with pytest.raises(CheckpointError) as error:
        train(longer, prepared=small_data, workdir=str(tmp_path / "short"), reporter=Reporter(quiet=True))
    said = str(error.value)
    assert "its learning rate began to fall after 4 of 6 steps" in said
    assert "\n" not in said
    command = f"mkdir -p NEW/checkpoints && cp -r {tmp_path}/short/checkpoints/4 NEW/checkpoints/"
    assert command in said
    subprocess.run(["bash", "-c", command.replace("NEW", str(tmp_path / "new"))], check=True)

    heard = HearingReporter()
    train(longer, prepared=small_data, workdir=str(tmp_path / "new"), reporter=heard)
    assert "continuing from step 4" in heard.said
    assert "optimizer: the learning rate falls after 8 of 12 steps" in heard.said
    assert not any("jumps" in line for line in heard.said)
    train(longer, prepared=small_data, workdir=str(tmp_path / "whole"), reporter=Reporter(quiet=True))
    assert steps(tmp_path / "new") == steps(tmp_path / "whole") == [8, 12]
    expected, found = arrays(tmp_path / "whole", 12), arrays(tmp_path / "new", 12)
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in expected.items()
    }
    assert records(tmp_path / "new") == [each for each in records(tmp_path / "whole") if each["step"] > 4]


# Muon


def orthogonalized(matrix: np.ndarray) -> np.ndarray:
    """Five turns of Newton and Schulz's iteration with Muon's coefficients; float64."""
    x = matrix / (np.sqrt((matrix**2).sum()) + 1e-8)
    wide = x if x.shape[0] <= x.shape[1] else x.T
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T


def by_hand(gradients: list[np.ndarray], *, matrix: tuple[int, int] | None, config: OptimizerConfig) -> np.ndarray:
    """The last update of some steps, before weight decay: of a matrix (inputs, outputs) per layer, or of Adam's."""
    mean, square = np.zeros_like(gradients[0]), np.zeros_like(gradients[0])
    decay = 0.95 if matrix else config.b1
    for gradient in gradients:
        mean = decay * mean + (1 - decay) * gradient
        square = config.b2 * square + (1 - config.b2) * gradient**2
    count = len(gradients)
    if matrix is None:
        corrected = np.sqrt(square / (1 - config.b2**count)) + config.epsilon
        return mean / (1 - decay**count) / corrected
    ahead = decay * mean / (1 - decay ** (count + 1)) + (1 - decay) * gradients[-1] / (1 - decay**count)  # Nesterov
    layers = [orthogonalized(layer.reshape(matrix)) * 0.2 * max(matrix) ** 0.5 for layer in ahead]
    return np.stack(layers).reshape(gradients[0].shape)


def named_leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


MODEL = ModelConfig(
    layers=2, width=24, heads=4, head_width=8, kv_heads=2, mlp_width=40, context=8, activation="swiglu", qk_norm=True
)
SIDES = {  # of the matrices of MODEL: inputs, outputs
    "attention/query": (24, 32),
    "attention/key": (24, 16),
    "attention/value": (24, 16),
    "attention/output": (32, 24),
    "mlp/up": (24, 40),
    "mlp/gate": (24, 40),
    "mlp/down": (40, 24),
}


def test_every_matrix_of_the_blocks_has_its_sides() -> None:
    shapes = jax.eval_shape(lambda: decoder.init_params(MODEL, vocab=128, key=jax.random.key(0)))
    matrices = {name: leaf for name, leaf in named_leaves(shapes).items() if name.endswith("kernel")}
    assert matrices.keys() == {f"blocks/{name}/kernel" for name in SIDES}
    labels = named_leaves(optimizer._labels(shapes))
    assert {name for name, label in labels.items() if label == "muon"} == matrices.keys()
    axes = optimizer._matrices({"blocks": {"attention": shapes["blocks"]["attention"], "mlp": shapes["blocks"]["mlp"]}})
    for name, expected in SIDES.items():
        room, own = name.split("/")
        sides = axes["blocks"][room][own]["kernel"]
        shape = matrices[f"blocks/{name}/kernel"].shape
        assert tuple(math.prod(shape[axis] for axis in side) for side in sides) == expected


def test_muon_is_newton_schulz_per_layer_and_adam_for_all_else() -> None:
    """Against NumPy in float64 after three steps: a matrix with more outputs, one with more inputs, and the rest."""
    config = OptimizerConfig(name="muon", clip_norm=0.0, weight_decay=0.1)
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def tree() -> dict[str, Any]:
        inward, outward = {"kernel": drawn(2, 24, 4, 8), "bias": drawn(2, 4, 8)}, {"kernel": drawn(2, 4, 8, 24)}
        return {"blocks": {"attention": {"query": inward, "output": outward}}, "embedding": {"embedding": drawn(9, 24)}}

    params, steps = tree(), [tree() for _ in range(3)]
    transformation = make_optimizer(config)
    state, update = transformation.init(params), jax.jit(transformation.update)
    for gradients in steps:
        updates, state = update(gradients, state, params)
    for name, found in named_leaves(updates).items():
        of_all = [np.float64(named_leaves(each)[name]) for each in steps]
        matrix = SIDES.get(name.removeprefix("blocks/").removesuffix("/kernel"))
        expected = by_hand(of_all, matrix=matrix, config=config)
        # The learning rate is that of AdamW: its updates have about this size, too (arXiv 2502.16982).
        assert matrix is None or 0.1 < np.sqrt(np.mean(np.square(expected))) < 0.3, name
        expected = expected if name.endswith("bias") else expected + 0.1 * named_leaves(params)[name]
        np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=name)


def test_muon_keeps_one_moment_of_a_matrix_and_each_lies_as_its_parameter_does() -> None:
    config = with_optimizer(CONFIG, name="muon", ema_decay=0.9)
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2), batch_size=16)
    placed = state_shardings(config, vocab=256, mesh=mesh)
    shapes = jax.eval_shape(lambda: init_state(config, vocab=256))
    parameters = dict(jax.tree_util.tree_leaves_with_path(placed.params))
    inner = placed.optimizer[1].inner_states
    kernels = {path for path in parameters if path[-1].key == "kernel"}
    first, adam = inner["muon"].inner_state[0].mu, inner["adam"].inner_state
    assert dict(jax.tree_util.tree_leaves_with_path(first)) == {path: parameters[path] for path in kernels}
    rest = {path: parameters[path] for path in parameters.keys() - kernels}
    assert dict(jax.tree_util.tree_leaves_with_path(adam.mu)) == rest
    assert dict(jax.tree_util.tree_leaves_with_path(adam.nu)) == rest
    assert placed.average == placed.params
    assert jax.tree.structure(shapes) == jax.tree.structure(placed)


@pytest.mark.slow
def test_muon_trains_on_four_devices_as_on_one() -> None:
    config = with_optimizer(CONFIG, name="muon", ema_decay=0.9)
    expected, (*_, last) = run_batches(config, [make_batch(index) for index in range(4)])
    # Eight have more to wait for each other for than two cores always manage in XLA's time.
    mesh = sharding.make_mesh(MeshConfig(1, 2, 2), batch_size=16, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        placed = state_shardings(config, vocab=VOCAB, mesh=mesh)
        state = jax.jit(lambda: init_state(config, vocab=VOCAB), out_shardings=placed)()
        step = jit_train_step(config, vocab=VOCAB, call_id=CALL, mesh=mesh)
        for index, one in enumerate(expected):
            state, sums = step(state, jax.device_put(make_batch(index), sharding.batch_sharding(mesh)), None)
            assert float(sums["loss"]) == pytest.approx(float(one["loss"]), rel=2e-6)
    # Of a weight that has moved by 0.02 in four steps. Adam's are as far apart (test_step.py).
    for found, alone in ((state.params, last.params), (state.average, last.average)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), jax.device_get(found), alone)


@pytest.mark.slow
def test_muon_goes_on_from_a_pretrained_model(small_config: Config, tmp_path: Path) -> None:
    settings = settings_of("llama3")
    folder = write_folder(tmp_path / "model", "llama3", settings=settings, tensors=random_tensors(settings))
    config = with_optimizer(with_steps(small_config, 2), name="muon", ema_decay=0.5)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, initial=str(folder)),
        data=dataclasses.replace(config.data, directory=str(tmp_path / "data")),
    )
    api.train(config, workdir=str(tmp_path / "run"), say="nothing")
    before, now = (load_model(str(path)).params["blocks"] for path in (folder, tmp_path / "run"))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, now)
    assert all(0 < each < 0.1 for each in jax.tree.leaves(moved))


# The average of the weights


@pytest.mark.slow
def test_the_average_is_of_the_trained_weights_by_their_age() -> None:
    """In the step itself, against a weighted mean of the states that it gave."""
    config = with_optimizer(CONFIG, ema_decay=0.7)
    _, states = run_batches(config, [make_batch(index) for index in range(4)])
    weights = [0.7**age for age in (3, 2, 1, 0)]
    expected = jax.tree.map(
        lambda *each: np.average(np.stack(each), axis=0, weights=weights), *(each.params for each in states)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), states[-1].average, expected)
    _, plain = run_batches(CONFIG, [make_batch(index) for index in range(4)])
    jax.tree.map(np.testing.assert_array_equal, states[-1].params, plain[-1].params)  # training is not changed


@pytest.mark.parametrize("decay", [0.5, 0.99999])
def test_an_average_knows_nothing_of_the_weights_before_the_first_step(decay: float) -> None:
    rng = np.random.default_rng(0)
    held, given = {"a": jnp.full(3, 5.0)}, [rng.normal(size=3) for _ in range(5)]
    for step, weights in enumerate(given, start=1):
        held = average(held, {"a": jnp.float32(weights)}, step=jnp.int32(step), decay=decay)
        expected = np.average(given[:step], axis=0, weights=[decay**age for age in range(step - 1, -1, -1)])
        np.testing.assert_allclose(held["a"], expected, atol=2e-6)


@pytest.mark.slow
def test_muon_wsd_and_an_average_resume_to_the_same_bits_and_the_average_is_used(
    small_config: Config, small_data: Prepared, tmp_path: Path
) -> None:
    config = with_optimizer(small_config, name="muon", schedule="wsd", decay_share=0.5, ema_decay=0.6)
    heard = HearingReporter()
    train(config, prepared=small_data, workdir=str(tmp_path / "straight"), reporter=heard)
    said = "\n".join(heard.said)
    assert "optimizer: Muon for the matrices of the blocks, AdamW for all else; the learning rate falls after" in said
    assert "; validated and used is a moving average of the weights, decay 0.6" in said
    size = f"{sum(x.nbytes for x in jax.tree.leaves(load_model(str(tmp_path / 'straight')).params)) / 2**20:,.1f} MiB"
    assert f"parameters {size}, optimizer " in said
    assert f", average {size}, activations" in said

    with pytest.raises(Killed):
        train(config, prepared=small_data, workdir=str(tmp_path / "killed"), reporter=KillingReporter(at=5))
    train(config, prepared=small_data, workdir=str(tmp_path / "killed"), reporter=Reporter(quiet=True))
    expected, found = arrays(tmp_path / "straight", 6), arrays(tmp_path / "killed", 6)
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in expected.items()
    }
    assert records(tmp_path / "killed") == records(tmp_path / "straight")

    # What readers take, and what the validation was of, is the average; training has weights of its own.
    used = load_model(str(tmp_path / "straight")).params["embedding"]["embedding"]
    averaged, own = (expected[f"['{item}']['embedding']['embedding']"] for item in ("params", "train']['params"))
    np.testing.assert_array_equal(used, averaged)
    assert np.abs(averaged - own).max() > 1e-4
    for decay in (0.0, 0.7):
        with pytest.raises(CheckpointError, match=rf"config\.optimizer\.ema_decay: here {decay}, there 0\.6"):
            train(with_optimizer(config, ema_decay=decay), prepared=small_data, workdir=str(tmp_path / "killed"),
                  reporter=Reporter(quiet=True))  # fmt: skip
