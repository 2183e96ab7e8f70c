"""Saving and resuming a run with Orbax. What lies in a step's folder: lacy_jax/checkpoints/format.py."""

import itertools
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from lacy_jax.checkpoints.format import newest_steps, read_config, read_meta
from lacy_jax.config import Config, config_to_dict
from lacy_jax.errors import CheckpointError
from lacy_jax.runtime import distributed
from lacy_jax.training.state import TrainState, init_state

# What a run must have in common with the checkpoint that it continues from.
_BINDING = ("model", "objective", "optimizer", "data", "training.seed", "training.microbatches")
# Of those, what only says where things lie or how fast they are done.
_FREE = (
    "data.directory",
    "data.packed",
    "model.attention",
    "model.layer_loop",
    "model.remat",
    "objective.vocab_chunks",
)


class Checkpoints:
    """The checkpoints of one run, `<workdir>/checkpoints`; saving is asynchronous, a failed save raises at the next."""

    def __init__(self, workdir: str, *, keep: int):
        self._folder = epath.Path(workdir).absolute() / "checkpoints"
        self._folder.mkdir(parents=True, exist_ok=True)
        _set_aside(self._folder)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    @property
    def latest(self) -> int | None:
        step: int | None = self._manager.latest_step()
        return step

    def save(self, state: TrainState, *, step: int, meta: dict[str, Any]) -> None:
        """Starts writing step `step`; training may go on and donate the state."""
        train = {name: getattr(state, name) for name in ("step", "tokens", "ground_truth_tokens", "optimizer")}
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            train=ocp.args.StandardSave(train),
            meta=ocp.args.JsonSave(meta),
        )
        self._manager.save(step, args=items, force=True)

    def wait(self) -> None:
        """Until everything is on disk; raises what went wrong there."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def restore(self, config: Config, *, vocab: int, shardings: TrainState, data: Any) -> tuple[TrainState, Any]:
        """The newest state, placed by `shardings` on whatever devices there are now, and its meta.

        Raises:
            CheckpointError: it was made with other settings or other data than this run's, or cannot be read.
        """
        step = self.latest
        folder = self._folder / str(step)
        meta = read_meta(folder)
        _refuse_other_run(meta, config, data=data, folder=folder)
        shapes = jax.eval_shape(lambda: init_state(config, vocab=vocab))
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
        train = {name: getattr(target, name) for name in ("step", "tokens", "ground_truth_tokens", "optimizer")}
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(target.params), train=ocp.args.StandardRestore(train)
        )
        restored = self._manager.restore(step, args=items)
        return TrainState(params=restored["params"], **restored["train"]), meta


def _set_aside(folder: epath.Path) -> None:
    """Renames steps that are newer than the newest whole one to N.incomplete: the run goes on there, and comes to N.

    Orbax would take them for the newest, and delete whole ones in their place.

    Raises:
        CheckpointError: there are steps, and none is whole.
    """
    broken, whole = newest_steps(folder, items=("params", "train"))
    if whole and jax.process_index() == 0:
        for step, fault in broken.items():
            names = (f"{step.name}.incomplete{number or ''}" for number in itertools.count())
            aside = next(folder / name for name in names if not (folder / name).exists())
            logging.warning("%s is not whole (%s): it is now %s, and step %s is used", step, fault, aside, whole.name)
            step.rename(aside)
    distributed.wait_for_all("steps that are not whole are set aside")
    if broken and not whole:
        step, fault = next(iter(broken.items()))
        raise CheckpointError(
            f"{step} is not whole ({fault}), and no older step is; give this run another --workdir, or remove {folder}"
        )


def _refuse_other_run(meta: dict[str, Any], config: Config, *, data: Any, folder: epath.Path) -> None:
    ours, theirs = (_flatten(config_to_dict(each)) for each in (config, read_config(meta, folder=folder)))
    # Where a batch is one whole to the objective, its parts are a matter of a machine's memory.
    free = (*_FREE, "training.microbatches") if config.objective.scope == "batch" else _FREE
    binding = [name for name in ours if name.startswith(_BINDING) and name not in free]
    differing = [
        f"config.{name}: here {ours[name]!r}, there {theirs[name]!r}" for name in binding if ours[name] != theirs[name]
    ]
    if meta["data"] != data:
        differing.append("the prepared data (corpus, annotator, rule, tokenizer or window length) is another")
    if differing:
        raise CheckpointError(
            f"{folder} was made by a run with other settings; give this run another --workdir, or the old settings:\n  "
            + "\n  ".join(differing)
        )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
