"""Every test sees eight CPU devices, whatever the machine has: meshes are tested where no accelerator is.

What one process of a session has compiled the others take from a folder, as restarted runs do where a machine keeps
one: compiling is most of the suite's time on two cores.
"""

import os
import tempfile

from tests.xla import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("XLA_FLAGS", xla_flags(devices=8))
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # a worker, or a command that a test starts, has it from its parent
    COMPILED = tempfile.TemporaryDirectory(prefix="lacy_jax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import dataclasses
import gc
import logging
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

from lacy_jax.config import (
    AnnotateConfig,
    BiographiesConfig,
    Config,
    CorpusConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainingConfig,
)
from lacy_jax.data import pack
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared

gc.freeze()  # what the imports made stays: to look through it again and again took a tenth of the suite's time
gc.set_threshold(50_000)

NO_SKIPS = bool(os.environ.get("LACY_NO_SKIPS"))  # CI sets it: there everything is installed


def refuse_skip(report: Any) -> None:
    """Turns a skip into a failure that gives the skip's reason."""
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped where LACY_NO_SKIPS is set: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """A door that is entered by a test may set up logging; the next test finds it as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of a session have in common."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def small_config(shared: Path) -> Config:
    """A run of six steps on 80 real articles; its data is prepared once a session."""
    return Config(
        name="small",
        corpus=CorpusConfig(max_documents=80, validation_share=0.1),
        tokenizer=TokenizerConfig(vocab_size=400),
        data=DataConfig(directory=str(shared / "data"), batch_size=8),
        model=ModelConfig(layers=2, width=32, heads=4, context=32, compute_dtype="float32"),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        training=TrainingConfig(
            steps=6, log_every=1, evaluate_every=3, evaluate_batches=2, checkpoint_every=3, keep_checkpoints=3
        ),
    )


@pytest.fixture(scope="session")
def small_data(small_config: Config) -> Prepared:
    return prepare(small_config)


@pytest.fixture(scope="session")
def small_shards(small_config: Config, small_data: Prepared, shared: Path) -> Config:
    """`small_config` with its data in shards of about 40 windows, read by a block shuffle."""
    data = dataclasses.replace(small_config.data, directory=str(shared / "sharded"), shuffle="block")
    config = dataclasses.replace(small_config, data=data)
    with filelock.FileLock(shared / "sharded.lock"), pytest.MonkeyPatch.context() as patch:
        for stage in ("annotated", "tokenizer"):
            source = Path(small_config.data.directory) / stage
            shutil.copytree(source, shared / "sharded" / stage, dirs_exist_ok=True)
        patch.setattr(pack, "_SHARD_TOKENS", 40 * small_config.model.context)
        assert len(prepare(config).train) == len(small_data.train)
    return config


@pytest.fixture(scope="session")
def small_mixture(small_config: Config, small_data: Prepared) -> Config:
    """`small_config` on a mixture: its own data, `people` from half the run on, and `few`, which is only validated."""
    tokenizer = TokenizerConfig(path=str(small_data.packed.directory / "tokenizer.model"))
    folders = [small_data.packed.directory]
    for seed in (0, 1):
        world = CorpusConfig(
            name="biographies", biographies=BiographiesConfig(people=8, documents=16, seed=seed), validation_share=0.2
        )
        oracle = AnnotateConfig(annotator="oracle")
        own = dataclasses.replace(small_config, corpus=world, annotate=oracle, tokenizer=tokenizer)
        folders.append(prepare(own).packed.directory)
    parts = zip(("articles", "people", "few"), ("1", "0@0.5..1@0.5..3", "0"), folders, strict=True)
    mixture = ",".join(f"{name}:{weights}:{folder}" for name, weights, folder in parts)
    return dataclasses.replace(small_config, data=dataclasses.replace(small_config.data, mixture=mixture))


@pytest.fixture(scope="session")
def small_run(small_config: Config, small_data: Prepared, shared: Path) -> Path:
    """The workdir of `small_config`, trained to its end once a session. No test changes it."""
    from lacy_jax.console import Reporter
    from lacy_jax.training.loop import train

    workdir = shared / "small_run"
    with filelock.FileLock(shared / "small_run.lock"):
        train(
            small_config, prepared=small_data, workdir=str(workdir), reporter=Reporter()
        )  # a finished run is left alone
    return workdir
