"""What a checkpoint holds, and how anyone reads one: training, the cascade and the doors alike.

A step's folder is self-contained, so that `generate`, `evaluate` and `export` need no config file:

    <workdir>/checkpoints/<step>/params/    Orbax, a plain nested dict of float32 arrays
                                 train/     Orbax, optimizer state and counters (absent from an export)
                                 meta/      JSON: settings, tokenizer, data fingerprint, versions

An export is one such folder without `train`. A Hugging Face folder (config.json, model.safetensors, tokenizer.json)
of the GPT-2 or Llama kind is read too.
"""

import base64
import dataclasses
import json
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from etils import epath

from lacy_jax.config import Config, ModelConfig, config_from_dict, config_to_dict
from lacy_jax.data.tokenizer import TextTokenizer, Tokenizer
from lacy_jax.errors import CheckpointError, DataError
from lacy_jax.model import decoder

FORMAT = 1
META_FILE = "meta/metadata"  # where Orbax puts the item `meta` of a JsonSave
_VERSIONED = ("lacy_jax", "jax", "flax", "optax", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to use: `params` as in model/decoder.py, `meta` as written by `model_meta`.

    One from a Hugging Face folder was trained without `<CALL>`: its `meta` has only "step" (0) and "hugging_face",
    the folder's model_type; of `config`, only `model` tells something.
    """

    config: Config
    params: decoder.Params
    tokenizer: TextTokenizer
    meta: dict[str, Any]
    path: str

    @property
    def model(self) -> ModelConfig:
        return self.config.model

    @property
    def step(self) -> int:
        return int(self.meta["step"])


def model_meta(config: Config, *, tokenizer: Tokenizer, step: int, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The JSON beside the arrays: everything needed to use them. `data` is the packed data's fingerprint."""
    return {
        "format": FORMAT,
        "step": step,
        "config": config_to_dict(config),
        "tokenizer": base64.b64encode(tokenizer.model_proto).decode("ascii"),
        "call_id": tokenizer.call_id,
        "data": data,
        "versions": {name: _version(name) for name in _VERSIONED},
        **more,
    }


def find_checkpoint(path: str) -> epath.Path:
    """The folder of one step: `path` itself, or the newest step under it (a workdir or its checkpoints/).

    Raises:
        CheckpointError: nothing finished lies there.
    """
    root = epath.Path(path).absolute()  # Orbax reads no relative paths
    if (root / META_FILE).exists():
        return root
    for folder in (root / "checkpoints", root):
        if folder.exists():
            steps = sorted(int(child.name) for child in folder.iterdir() if child.name.isdecimal())
            finished = [step for step in steps if (folder / str(step) / META_FILE).exists()]
            if finished:
                return folder / str(finished[-1])
    found = "there is no such folder" if not root.exists() else "it holds no finished checkpoint"
    raise CheckpointError(
        f"no checkpoint at {path!r}: {found}; give a run's workdir, its checkpoints/, one step of it, an export, "
        "or a Hugging Face folder with config.json, model.safetensors and tokenizer.json"
    )


def read_meta(folder: epath.Path) -> dict[str, Any]:
    """The JSON of a step's folder.

    Raises:
        CheckpointError: not ours, or written by a newer format.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / META_FILE).read_text())
        written = int(meta["format"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / META_FILE} is not the description of a lacy_jax checkpoint: {error}"
        ) from error
    if written > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {written}, this lacy_jax reads up to {FORMAT}: upgrade it"
        )
    return meta


def load_model(path: str, *, params_dtype: Literal["stored", "float32", "bfloat16"] = "stored") -> LoadedModel:
    """Parameters, settings and tokenizer of a checkpoint, the arrays on this process' first device.

    Args:
        path: of one of ours (see `find_checkpoint`), or a Hugging Face folder; nothing is ever downloaded.
        params_dtype: of the parameters in memory. What the model computes in is another matter.

    Raises:
        CheckpointError: nothing usable at `path`; the message says what was looked for.
    """
    if (Path(path) / "config.json").is_file():
        return _load_hugging_face(Path(path), params_dtype=params_dtype)
    folder = find_checkpoint(path)
    meta = read_meta(folder)
    config = config_from_dict(meta["config"])
    tokenizer = Tokenizer.from_bytes(base64.b64decode(meta["tokenizer"]))
    params = restore_params(folder, config.model, vocab=decoder.padded_vocab(tokenizer.vocab_size))
    if params_dtype != "stored":
        params = jax.tree.map(lambda leaf: leaf.astype(params_dtype), params)
    return LoadedModel(config=config, params=params, tokenizer=tokenizer, meta=meta, path=str(folder))


def _load_hugging_face(folder: Path, *, params_dtype: Literal["stored", "float32", "bfloat16"]) -> LoadedModel:
    try:
        from lacy_jax.checkpoints import hf
        from lacy_jax.checkpoints.hf_tokenizer import HfTokenizer
    except ImportError as error:
        raise CheckpointError(f"{folder} is a Hugging Face folder: reading it needs the package {error.name}") from None
    settings = hf.read_settings(folder)
    model = hf.model_config(settings)
    try:
        tokenizer = HfTokenizer.from_folder(folder)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    params = hf.read_params(folder, settings, config=model, tokens=tokenizer.call_id, dtype=params_dtype)
    meta = {"step": 0, "hugging_face": settings["model_type"]}
    config = Config(name=folder.name, method="ntp", model=model)
    return LoadedModel(config=config, params=params, tokenizer=tokenizer, meta=meta, path=str(folder))


def restore_params(folder: epath.Path, model: ModelConfig, *, vocab: int, shardings: Any = None) -> decoder.Params:
    """Parameters of a step's folder, placed by `shardings` (a matching tree; default: the first local device).

    Raises:
        CheckpointError: the arrays do not have the shapes that the settings beside them ask for.
    """
    shapes = jax.eval_shape(lambda: decoder.init_params(model, vocab=vocab, key=jax.random.key(0)))
    if shardings is None:
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: first, shapes)
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            return checkpointer.restore(folder / "params", target)
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise CheckpointError(f"cannot restore the parameters in {folder}: {error}") from error


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
