"""A batch that is not finite on one of two processes: both of them skip it, and both of them end."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from lacy_jax.config import Config, config_to_dict
from lacy_jax.data.prepare import Prepared
from tests.xla import xla_flags

PROGRAM = """
import json, sys
from lacy_jax.runtime.distributed import initialize
initialize("auto")
import jax
from lacy_jax.config import config_from_dict
from lacy_jax.console import Reporter
from lacy_jax.data import loader
from lacy_jax.data.prepare import prepare
from lacy_jax.errors import NotFiniteError
from lacy_jax.training.loop import train

out = open(sys.argv[1], "w")
original = loader.batch_at

def batch_at(source, step, **options):
    batch = original(source, step, **options)
    if step == 2 and jax.process_index() == 1:
        print("spoilt", file=out)
        batch.tokens[0, 0] = 10**6  # no row of the embedding: NaN
    return batch

loader.batch_at = batch_at
for workdir, settings in zip(sys.argv[2:4], json.loads(sys.argv[4])):
    config = config_from_dict(settings)
    try:
        result = train(config, prepared=prepare(config), workdir=workdir, reporter=Reporter(quiet=True))
        print("finished at", result.step, file=out)
    except NotFiniteError as error:
        print(error, file=out)
"""


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path; read by plain Orbax, whatever devices it was saved from."""
    found = {}
    for item in ("params", "train"):
        folder = workdir.absolute() / "checkpoints" / str(step) / item
        with ocp.PyTreeCheckpointer() as checkpointer:
            shapes = checkpointer.metadata(folder).item_metadata.tree
            how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            tree = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=how))
        found |= {item + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
    return found


def test_both_skip_what_is_not_finite_on_one(small_config: Config, small_data: Prepared, tmp_path: Path) -> None:
    assert len(small_data.train) > 0  # prepared before the processes ask for it
    settings = config_to_dict(small_config)
    settings["mesh"] |= {"fsdp": 2}
    settings["training"] |= {"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 4, "evaluate_every": 100}
    strict = settings | {"training": settings["training"] | {"skip_nonfinite": 0}}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "XLA_FLAGS": xla_flags(devices=2),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    workdirs = [tmp_path / "run", tmp_path / "strict"]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, tmp_path / str(index), *workdirs, json.dumps([settings, strict])],
            cwd=Path(__file__).parents[2],
            env={**environment, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    lines = [(tmp_path / str(index)).read_text().splitlines() for index in range(2)]
    assert "spoilt" not in lines[0]
    finished, ended = lines[0]
    assert [line for line in lines[1] if line != "spoilt"] == [finished, ended]
    assert finished == "finished at 4"
    assert "1 steps in a row is not finite (batches 2 to 2)" in ended

    log = [json.loads(line) for line in (workdirs[0] / "metrics.jsonl").read_text().splitlines()]
    assert [(each["step"], each["loss"], each["skipped"]) for each in log if "batch" in each] == [(3, None, 1)]
    states = {step: arrays(workdirs[0], step) for step in (2, 3, 4)}
    assert all(np.isfinite(value).all() for state in states.values() for value in state.values())
    counters = {"train['step']", "train['tokens']"}
    same = {name for name, value in states[2].items() if value.tobytes() == states[3][name].tobytes()}
    assert same == states[2].keys() - counters
    assert any(value.tobytes() != states[4][name].tobytes() for name, value in states[3].items() if "params" in name)
    assert sorted(path.name for path in (workdirs[1] / "checkpoints").iterdir() if path.name.isdecimal()) == ["1", "2"]
