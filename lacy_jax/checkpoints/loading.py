"""A checkpoint as a model ready to use: one of ours (checkpoints/format.py), or a Hugging Face folder.

A Hugging Face folder (config.json, model.safetensors, tokenizer.json) of the GPT-2 or Llama kind is read too; nothing
is ever downloaded.
"""

import base64
import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from etils import epath

from lacy_jax.checkpoints.format import find_checkpoint, read_meta
from lacy_jax.config import Config, ModelConfig, ObjectiveConfig, config_from_dict
from lacy_jax.data.tokenizer import TextTokenizer, Tokenizer
from lacy_jax.errors import CheckpointError, DataError
from lacy_jax.model import decoder


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
    config = Config(name=folder.name, model=model, objective=ObjectiveConfig(rule="none"))
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
