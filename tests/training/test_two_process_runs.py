"""A batch that is not finite on one of two processes: both of them skip it, and both of them end."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from lacy_jax.config import Config
from lacy_jax.config_dict import config_to_dict
from lacy_jax.data.prepared import Prepared
from tests.processes import run_two

PROGRAM = """
import json, sys
from lacy_jax.runtime.distributed import initialize
initialize("auto")
import jax
from lacy_jax.config_dict import config_from_dict
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


@pytest.mark.slow
def test_both_skip_what_is_not_finite_on_one(small_config: Config, small_data: Prepared, tmp_path: Path) -> None:
    assert len(small_data.train) > 0  # prepared before the processes ask for it
    settings = config_to_dict(small_config)
    settings["mesh"] |= {"fsdp": 2}
    settings["training"] |= {"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 4, "evaluate_every": 100}
    strict = settings | {"training": settings["training"] | {"skip_nonfinite": 0}}
    workdirs = [tmp_path / "run", tmp_path / "strict"]
    lines = run_two(PROGRAM, [*workdirs, json.dumps([settings, strict])], out=tmp_path)
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
