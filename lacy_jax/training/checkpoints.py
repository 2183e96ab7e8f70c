"""Saving and resuming a run with Orbax. What lies in a step's folder: lacy_jax/checkpoints/format.py."""

import contextlib
import dataclasses
import functools
import itertools
import math
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from lacy_jax.budget import Budget, decay_begins
from lacy_jax.checkpoints.format import (
    FINISHED_FILE,
    is_step,
    newest_steps,
    read_checksums,
    read_config,
    read_meta,
    read_tokenizer,
    step_fault,
    with_checksums,
)
from lacy_jax.checkpoints.loading import restore_arrays
from lacy_jax.config import Config, TrainingConfig
from lacy_jax.config_dict import config_to_dict
from lacy_jax.errors import CheckpointError, DamagedError, StorageError
from lacy_jax.folders import children_of, reading, rename_folder, writing
from lacy_jax.paths import absolute, copy_command, is_bucket, is_s3
from lacy_jax.runtime import distributed
from lacy_jax.training.state import TrainState, state_shapes
from lacy_jax.training.uploads import Uploads

# What a run must have in common with the checkpoint that it continues from.
_BINDING = ("model", "objective", "optimizer", "data", "training.seed", "training.microbatches")
# Of those, what only says where things lie or how fast they are done.
_FREE = (
    "data.directory",
    "data.mixture",
    "data.packed",
    "model.attention",
    "model.initial",
    "model.layer_loop",
    "model.remat",
    "objective.vocab_chunks",
    "optimizer.decay_share",  # see `_refuse_decayed`
)

_ITEMS = ("params", "train")  # the folders of arrays in a step's folder
BEFORE_DECAY = "before_decay"  # of a description, with schedule wsd: whether no step so far had a falling learning rate


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    """What writes each item. Of an array that a process's devices hold alike, one writes it whole, unless it is large.

    Orbax has each write a part and compiles a program for each: a first save would hold training for seconds. With many
    processes all devices write: a CPU that does not may begin the next step within another's save, and both hang.
    """
    least = 2**24 if jax.process_count() == 1 else 0
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=least)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    trees = {name: ocp.PyTreeCheckpointHandler(type_handler_registry=registry) for name in _ITEMS}
    return {**trees, "meta": ocp.JsonCheckpointHandler()}


class Checkpoints:
    """The checkpoints of one run, `<workdir>/checkpoints`; saving is asynchronous, a failed save raises at the next.

    config: says which are kept, and whether they are written with checksums.
    """

    def __init__(self, workdir: str, config: Config):
        self._training = training = config.training
        self._unread: epath.Path | None = None  # the step that was saved last, until it is read back
        self._folder = absolute(workdir) / "checkpoints"
        self._uploads = Uploads(self._folder, arrays=_ITEMS) if is_s3(workdir) else None
        # Where Orbax works.
        self._local = self._folder if self._uploads is None else absolute(self._uploads.local)
        self._local.mkdir(parents=True, exist_ok=True)
        _set_aside(self._folder)
        if self._uploads:
            self._uploads.pull()
        wsd = config.optimizer.schedule == "wsd"
        self._before_decay = set(_steps_before_decay(self._local)) if wsd else set()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([_Newest(self._before_decay), *_kept(training)]),
            # Where this is not given, Orbax writes no metrics.
            best_fn=None if training.keep_best == "none" else functools.partial(_value, training.keep_best),
            cleanup_tmp_directories=True,
        )
        with reading(self._local):
            self._manager = ocp.CheckpointManager(self._local, options=options, item_handlers=_handlers())
        self._check_found()

    def _check_found(self) -> None:
        """Raises `StorageError` where Orbax has not found every step: a silent disk is an empty one to it."""
        there = {int(child.name) for child in children_of(self._local) if is_step(child)}
        if missing := there - set(self._manager.all_steps()):
            raise StorageError(f"{self._local}: step {max(missing)} is there, and cannot be read now; try again later")

    @property
    def latest(self) -> int | None:
        step: int | None = self._manager.latest_step()
        return step

    def describe_newest(self) -> str:
        """What is saved, in words for a message."""
        return "there is no checkpoint" if self.latest is None else f"the newest checkpoint is {self.latest}"

    def check_room(self, state: TrainState) -> None:
        """Returns where the disk has room for a checkpoint of `state`; of a bucket nothing is known.

        Raises:
            StorageError: it has not.
        """
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(_items(state)))
        if not is_bucket(self._local) and needed > (free := shutil.disk_usage(self._local).free):
            another = "set $LACY_CACHE to another folder" if self._uploads else "give another --workdir"
            raise StorageError(
                f"{self._local}: a checkpoint of this run takes {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are "
                f"free: make room, or {another}"
            )

    def save(
        self, state: TrainState, *, step: int, meta: dict[str, Any], validation: Mapping[str, float] | None = None
    ) -> None:
        """Starts writing step `step`; training may go on and donate the state.

        Args:
            validation: the record of the validation of this very step, if there was one.

        Raises:
            StorageError: this step, or the one before it, cannot be written.
        """
        arrays = _items(state)
        if self._training.checksums:
            meta = with_checksums(meta, arrays)
        items = {name: ocp.args.PyTreeSave(tree) for name, tree in arrays.items()}
        args = ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta))
        value = (validation or {}).get(self._training.keep_best, math.nan)
        metrics = {self._training.keep_best: value} if math.isfinite(value) else {}
        self._before_decay.discard(step)
        if meta.get(BEFORE_DECAY):
            self._before_decay.add(step)
        self.wait()
        with self._written():
            self._manager.save(step, args=args, metrics=metrics, force=True)
            if self._uploads:
                self._uploads.start(self._kept_by_orbax)
        self._unread = self._folder / str(step)

    def wait(self) -> None:
        """Until everything is on disk; raises what went wrong there.

        What was saved last is read back as far as that is cheap: its files must be there, and its description genuine.

        Raises:
            CheckpointError: it is not whole.
        """
        # Cleared first: of a step that could not be written, `close` would report only that it is not whole.
        step, self._unread = self._unread, None
        with self._written():
            if self._uploads:
                self._uploads.wait()
            else:
                self._wait_for_orbax()
        if step is not None and jax.process_index() == 0 and (fault := step_fault(step, _ITEMS)):
            raise CheckpointError(
                f"{step} was saved, and is not whole when it is read back ({fault}): look at the disk"
            )

    def close(self) -> None:
        try:
            self.wait()
        finally:
            with self._written():
                if self._uploads:
                    self._uploads.close()
                self._manager.close()

    def _wait_for_orbax(self) -> None:
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def _kept_by_orbax(self) -> list[str]:
        self._wait_for_orbax()
        return [str(step) for step in self._manager.all_steps()]

    def _written(self) -> contextlib.AbstractContextManager[None]:
        def kept() -> str:
            try:
                _, whole = newest_steps(self._folder)
            except StorageError:  # what cannot be written, it may be impossible to read
                return ""
            return f"; step {whole.name} is whole" if whole else "; there is no step before it"

        return writing(f"{self._folder}: a checkpoint", kept=kept)

    def restore(self, config: Config, *, vocab: int, shardings: TrainState, data: Any) -> tuple[TrainState, Any]:
        """The newest state, placed by `shardings` on whatever devices there are now, and its meta.

        A step that turns out to be damaged is set aside, as one that is not whole, and the next older one is taken.

        Raises:
            CheckpointError: it was made with other settings or other data than this run's, or none can be read.
        """
        damaged: dict[epath.Path, str] = {}
        while True:
            name = str(self.latest)
            folder = self._folder / name
            here = self._uploads.fetch(name) if self._uploads else folder
            try:
                meta = read_meta(here)
                _refuse_other_run(meta, config, data=data, folder=folder)
                return restore_step(here, meta, config, vocab=vocab, shardings=shardings), meta
            except DamagedError as error:
                if self._uploads and self._uploads.refetch(name):
                    continue  # only the copy on this machine may be damaged
                damaged[folder] = str(error).removeprefix(f"{here}/")
            _set_aside(self._folder, damaged=damaged)
            if self._uploads:
                self._uploads.pull()
            self._manager.reload()
            self._check_found()


@dataclasses.dataclass(frozen=True)
class _Newest(policies.PreservationPolicy):
    """Keeps the newest of some steps, to which more are added."""

    steps: set[int]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:  # noqa: ARG002  Orbax calls it
        newest = max((each.step for each in checkpoints if each.step in self.steps), default=None)
        return [each.step == newest for each in checkpoints]


def _steps_before_decay(folder: epath.Path) -> list[int]:
    """The steps in a folder from which a run with schedule wsd can go on with another budget."""
    children = [child for child in children_of(folder) if is_step(child)]
    whole = [child for child in children if not step_fault(child, ())]
    return [int(child.name) for child in whole if read_meta(child).get(BEFORE_DECAY)]


def _kept(training: TrainingConfig) -> list[policies.PreservationPolicy]:
    """Which checkpoints Orbax leaves: the newest, those of an interval, and the best."""
    kept: list[policies.PreservationPolicy] = [policies.LatestN(training.keep_checkpoints)]
    if training.keep_every:
        kept.append(policies.EveryNSteps(training.keep_every))
    if training.keep_best != "none":
        value = functools.partial(_value, training.keep_best)
        kept.append(policies.BestN(get_metric_fn=value, n=1, keep_checkpoints_without_metrics=False))
    return kept


def _value(name: str, metrics: Mapping[str, float]) -> float:
    """A number that is larger for a better checkpoint; -inf for one that was not validated, or not by `name`."""
    sign = 1.0 if name.startswith(("accuracy", "roc/")) else -1.0
    return sign * metrics[name] if name in metrics else -math.inf


def read_state(
    workdir: str, config: Config, *, at_most: int, vocab: int, shardings: TrainState, data: Any
) -> TrainState | None:
    """The state of the newest whole step up to `at_most`, None where there is none; nothing on disk is changed.

    Raises:
        CheckpointError: it was made with other settings or other data than this run's, or is damaged.
    """
    parent = absolute(workdir) / "checkpoints"
    names = [child.name for child in children_of(parent)]
    later = {parent / name: "later" for name in names if name.isdecimal() and int(name) > at_most}
    _, folder = newest_steps(parent, items=_ITEMS, damaged=later)
    if folder is None:
        return None
    meta = read_meta(folder)
    _refuse_other_run(meta, config, data=data, folder=folder)
    return restore_step(folder, meta, config, vocab=vocab, shardings=shardings)


def _items(state: TrainState) -> dict[str, Any]:
    """The arrays of a step's folder, by the name of the item that holds them."""
    train = {name: getattr(state, name) for name in ("step", "tokens", "ground_truth_tokens", "optimizer")}
    # Every reader of a checkpoint takes `params`: an average stands there, and what training goes on with beside it.
    own = {} if state.average is None else {"params": state.params}
    return {"params": state.inference_params, "train": train | own}


def restore_step(
    folder: epath.Path, meta: dict[str, Any], config: Config, *, vocab: int, shardings: TrainState
) -> TrainState:
    """The state in a step's folder; raises `DamagedError`."""
    shapes = state_shapes(config, vocab=vocab)
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    restored = {
        name: restore_arrays(folder / name, tree, checksums=read_checksums(meta, item=name))
        for name, tree in _items(target).items()
    }
    if shapes.average is None:
        return TrainState(params=restored["params"], **restored["train"])
    return TrainState(average=restored["params"], **restored["train"])


def _set_aside(folder: epath.Path, *, damaged: dict[epath.Path, str] | None = None) -> None:
    """Renames steps that are newer than the newest whole one to N.incomplete: the run goes on there, and comes to N.

    Orbax would take them for the newest, and delete whole ones in their place.

    Raises:
        CheckpointError: there are steps, and none is whole.
        StorageError: a process cannot read them.
    """
    unread = None
    try:
        broken, whole = newest_steps(folder, items=_ITEMS, damaged=damaged)
    except StorageError as error:
        unread = error
    if distributed.anywhere(unread is not None):
        raise unread or StorageError(f"{folder} cannot be read by another process")
    if whole and jax.process_index() == 0:
        for step, fault in broken.items():
            names = (f"{step.name}.incomplete{number or ''}" for number in itertools.count())
            aside = next(folder / name for name in names if not (folder / name).exists())
            logging.warning("%s is not whole (%s): it is now %s, and step %s is used", step, fault, aside, whole.name)
            with writing(folder):
                rename_folder(step, aside, first=FINISHED_FILE)
    distributed.wait_for_all("steps that are not whole are set aside")
    if broken and not whole:
        step, fault = next(iter(broken.items()))
        raise CheckpointError(
            f"{step} is not whole ({fault}), and no older step is; give this run another --workdir, or remove {folder}"
        )


def _refuse_other_run(meta: dict[str, Any], config: Config, *, data: Any, folder: epath.Path) -> None:
    ours, theirs = (flat_settings(config_to_dict(each)) for each in (config, read_config(meta, folder=folder)))
    # Where a batch is one whole to the objective, its parts are a matter of a machine's memory.
    free = (*_FREE, "training.microbatches") if config.objective.scope == "batch" else _FREE
    binding = [name for name in ours if name.startswith(_BINDING) and name not in free]
    differing = [
        f"config.{name}: here {ours[name]!r}, there {theirs[name]!r}" for name in binding if ours[name] != theirs[name]
    ]
    same_tokenizer = read_tokenizer(meta, folder=folder).fingerprint == data["tokenizer"]
    if not same_tokenizer or _without_shares(meta["data"]) != _without_shares(data):
        differing.append("the prepared data (corpus, annotator, rule, tokenizer or window length) is another")
    elif meta["data"] != data:
        differing.append(
            f"config.data.mixture: the shares of the datasets differ, by step: here {data['shares']}, there "
            f"{meta['data']['shares']} (for another budget, write places as steps: docs/mixtures.md)"
        )
    if differing:
        raise CheckpointError(
            f"{folder} was made by a run with other settings; give this run another --workdir, or the old settings:\n  "
            + "\n  ".join(differing)
        )
    _refuse_decayed(meta, config, folder=folder)


def _refuse_decayed(meta: dict[str, Any], config: Config, *, folder: epath.Path) -> None:
    """Refuses another budget, or share of it, for a run with schedule wsd whose learning rate has begun to fall.

    Up to there, a checkpoint is what a run of any larger budget would have come to.
    """
    earlier = read_config(meta, folder=folder)
    courses = [(Budget.of(each).limit, Budget.of(each).unit, decay_begins(each)) for each in (config, earlier)]
    if config.optimizer.schedule != "wsd" or courses[0] == courses[1] or meta.get(BEFORE_DECAY):
        return
    limit, unit, begins = courses[1]
    before = _steps_before_decay(folder.parent)
    command = copy_command(folder.parent / str(max(before, default=0)), into="NEW/checkpoints")
    raise CheckpointError(
        f"{folder}: its learning rate began to fall after {begins:,} of {limit:,} {unit} "
        "(config.optimizer.schedule=wsd), so another budget, or decay_share, cannot go on from it; "
        + (
            f"the last checkpoint before that can: {command}, and give this run --workdir=NEW"
            if before
            else "there is no checkpoint from before that, so give this run another --workdir, and it begins anew"
        )
    )


def _without_shares(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "shares"}


def flat_settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
