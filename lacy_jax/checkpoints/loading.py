"""A checkpoint as a model ready to use: one of ours (format.py), a Hugging Face folder or a GGUF file (foreign.py)."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from lacy_jax.checkpoints.chat_template import ChatTemplate, template_of_description
from lacy_jax.checkpoints.checksums import Checksums, array_checksums, differing
from lacy_jax.checkpoints.foreign import open_foreign
from lacy_jax.checkpoints.format import (
    first_readable,
    kind_of,
    probe_of,
    read_checksums,
    read_config,
    read_meta,
    read_tokenizer,
)
from lacy_jax.config import Config, ModelConfig, ObjectiveConfig, ParamsDtype, Score
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.errors import CheckpointError, DamagedError, StorageError
from lacy_jax.folders import bytes_below, local_copy, of_storage
from lacy_jax.measures.finite import all_finite
from lacy_jax.model import decoder
from lacy_jax.model.probe import Probe, probe_weights
from lacy_jax.paths import absolute, expand_home, is_s3
from lacy_jax.runtime import distributed


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to use.

    config: of the run that made it; of a model made elsewhere, `config.model` alone says something.
    params: as in model/decoder.py. path: the folder that they came from.
    step: completed updates; 0 where it was not trained here.
    call_scores: quantiles of its validation call scores, ascending, which start a cascade's budget; () without any.
    factual_probe: None where the data that it was trained on had no factual tokens, or none is known.
    saving_probe: nats per token that the partner of its cascade saves; None where lacy_jax.calibrate fitted none.
    calibration: how the price of its cascade was found (checkpoints/calibration.py); {} where it was not.
    data: the fingerprint of that data. versions: of the packages that it was trained with. Both {} where not known.
    family: of a Hugging Face folder or a GGUF file, its model_type; "" of ours.
    chat: how it writes conversations; None where it does not say.
    """

    config: Config
    params: decoder.Params
    tokenizer: TextTokenizer
    path: str
    step: int = 0
    call_scores: tuple[float, ...] = ()
    factual_probe: Probe | None = None
    saving_probe: Probe | None = None
    calibration: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    family: str = ""
    chat: ChatTemplate | None = None

    @property
    def model(self) -> ModelConfig:
        return self.config.model

    @property
    def reader(self) -> ModelConfig:
        """The model's settings to read texts with, on any device: exact, as when it writes."""
        return dataclasses.replace(self.model, compute_dtype="float32", attention="auto", remat="none")

    @property
    def probes(self) -> np.ndarray:
        """float32 [2, D + 1], the bias last: of facts, and of what the partner saves; zeros for one that it lacks."""
        return np.stack(
            [probe_weights(each, width=self.model.width) for each in (self.factual_probe, self.saving_probe)]
        )

    @property
    def learned_to_call(self) -> bool:
        """Whether its training taught it `<CALL>`."""
        return not self.family and self.config.objective.teaches_call

    @property
    def own_score(self) -> Score:
        """The score of calling that "auto" stands for."""
        return "call_score" if self.learned_to_call else "uncertainty"


_MOST_COMPRESSED, _SMALL = 100, 1 << 20  # bytes of arrays to bytes of files; bytes of files that are always let pass


def load_model(path: str, *, params_dtype: ParamsDtype = "stored") -> LoadedModel:
    """Parameters, settings and tokenizer of a checkpoint, the arrays on this process' first device.

    Args:
        path: of one of ours (see `first_readable`), a Hugging Face folder, or a file that ends with .gguf.
        params_dtype: of the parameters in memory. What the model computes in is another matter.

    Raises:
        CheckpointError: nothing usable at `path`; the message says what was looked for.
    """
    path = expand_home(path)
    kind = kind_of(path)
    if kind != "own":
        return _load_foreign(path, kind=kind, params_dtype=params_dtype)
    return first_readable(path, lambda folder: _load_own(folder, params_dtype=params_dtype))


def _load_own(folder: epath.Path, *, params_dtype: ParamsDtype) -> LoadedModel:
    meta = read_meta(folder)
    config = read_config(meta, folder=folder)
    tokenizer = read_tokenizer(meta, folder=folder)
    factual, saving = probe_of(meta, "factual_probe"), probe_of(meta, "saving_probe")
    vocab, checksums = decoder.padded_vocab(tokenizer.vocab_size), read_checksums(meta, item="params")
    params = restore_params(folder, config.model, vocab=vocab, checksums=checksums)
    if any(probe is not None and len(probe.weights) != config.model.width for probe in (factual, saving)):
        raise DamagedError(f"{folder} is damaged: its probe is not of the width {config.model.width}")
    if params_dtype != "stored":
        params = jax.tree.map(lambda leaf: leaf.astype(params_dtype), params)
    return LoadedModel(
        config=config,
        params=params,
        tokenizer=tokenizer,
        path=str(folder),
        step=int(meta["step"]),
        call_scores=tuple(meta.get("call_scores", ())),
        factual_probe=factual,
        saving_probe=saving,
        calibration=meta.get("calibration", {}),
        data=meta.get("data", {}),
        versions=meta.get("versions", {}),
        chat=template_of_description(meta.get("chat"), where=str(folder)),
    )


def _load_foreign(path: str, *, kind: Literal["folder", "gguf"], params_dtype: ParamsDtype) -> LoadedModel:
    found = open_foreign(path, kind=kind)
    tokenizer = found.tokenizer()
    config = Config(name=found.name, model=found.model, objective=ObjectiveConfig(rule="none"))
    params = found.params(tokenizer, params_dtype)
    where, chat = str(Path(path)), found.chat()
    return LoadedModel(config=config, params=params, tokenizer=tokenizer, path=where, family=found.family, chat=chat)


def shortened(loaded: LoadedModel, *, context: int) -> LoadedModel:
    """The model with a context of so many tokens, at most its own; of learned positions the first are kept."""
    params = loaded.params
    if loaded.model.positions == "learned":
        positions = params["positions"]["embedding"][:context]
        params = {**params, "positions": {**params["positions"], "embedding": positions}}
    config = dataclasses.replace(loaded.config, model=dataclasses.replace(loaded.model, context=context))
    return dataclasses.replace(loaded, config=config, params=params)


def restore_params(
    folder: epath.Path, model: ModelConfig, *, vocab: int, checksums: Checksums, shardings: Any = None
) -> decoder.Params:
    """Parameters of a step's folder, placed by `shardings` (a matching tree; default: the first local device).

    Args:
        checksums: see `restore_arrays`.

    Raises:
        CheckpointError: they are not finite: an older lacy_jax saved a training that had failed.
        DamagedError: as `restore_arrays`.
    """
    try:
        shapes = decoder.param_shapes(model, vocab=vocab)
    except (TypeError, ValueError, OverflowError):  # numbers beyond 64 bits
        raise DamagedError(f"{folder} is damaged: no model has the sizes in its settings") from None
    _check_size(folder / "params", asked=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)))
    if shardings is None:
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: first, shapes)
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    params: decoder.Params = restore_arrays(folder / "params", target, checksums=checksums)
    if not all_finite(params):
        raise CheckpointError(
            f"{folder} has parameters that are not finite (NaN or infinite): its training failed; name an older step"
        )
    return params


def _check_size(folder: epath.Path, *, asked: int) -> None:
    """Raises `DamagedError` where a folder cannot hold so many bytes of trained arrays, which hardly compress.

    TensorStore takes what is missing for zeros, and would allocate them.
    """
    held = bytes_below(folder)
    if asked > _MOST_COMPRESSED * (held + _SMALL):
        raise DamagedError(f"{folder} is damaged: its arrays would have {asked:,} bytes, and its files have {held:,}")


def restore_arrays(folder: epath.Path, target: Any, *, checksums: Checksums) -> Any:
    """The arrays that Orbax wrote into `folder`, with the shapes, dtypes and shardings of `target`.

    Where arrays lie on devices of several processes, all of them call this together, and all raise where one cannot
    read its part. Where all lie on a process' own devices, it may call this alone.

    Args:
        checksums: what the arrays must have; {} where none were written.

    Raises:
        DamagedError: they are cut or changed, do not fit the target, or do not have their checksums.
        StorageError: the disk or the bucket does not give them.
    """
    restored, fault, unreachable = None, "", False
    alone = all(leaf.sharding.is_fully_addressable for leaf in jax.tree.leaves(target))
    anywhere = bool if alone else distributed.anywhere
    if is_s3(folder):  # Orbax takes the address for a path on this disk
        folder = absolute(local_copy(str(folder)))
    try:
        with _every_read_awaited():
            # The handler by itself: a `Checkpointer` makes processes wait for one that has failed.
            restored = ocp.StandardCheckpointHandler().restore(folder, args=ocp.args.StandardRestore(target))
    except Exception as error:  # for damaged files Orbax, TensorStore and JSON raise nearly every kind
        cause = _first_cause(error)
        if isinstance(cause, MemoryError | jax.errors.JaxRuntimeError) or not isinstance(cause, Exception):
            raise cause from None
        # Then no step is set aside: the way to the files is at fault, not the files.
        unreachable = of_storage(cause) or (isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError))
        fault = _first_line(cause)
    if anywhere(unreachable):
        why = fault or "by another process"
        advice = "try again; if it stays so, move the step away, and the one before it is used"
        raise StorageError(f"{folder} cannot be read ({why}): {advice}")
    if anywhere(bool(fault)):
        because = f"it cannot be read ({fault})" if fault else "another process cannot read it"
        raise DamagedError(f"{folder} is damaged: {because}")
    wrong = differing(array_checksums(restored), checksums) if checksums else []
    if wrong:
        more = f" and {len(wrong) - 1} others" if len(wrong) > 1 else ""
        raise DamagedError(f"{folder} is damaged: {wrong[0]}{more} changed after saving (by its checksum)")
    return restored


def _first_cause(error: BaseException) -> BaseException:
    """What an error was first raised from: Orbax's own names a place in an array, not what is wrong there."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: Exception) -> str:
    words = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {words[:160]}"


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that lets its tasks come to their end before it is closed."""

    def close(self) -> None:
        if not self.is_closed() and (left := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        super().close()


class _Loops(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _Loop()


@contextlib.contextmanager
def _every_read_awaited() -> Iterator[None]:
    """Orbax closes the event loop of a restore at the first error, while TensorStore still reads other arrays.

    Each of those would print a traceback when it is done.
    """
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_Loops())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)
