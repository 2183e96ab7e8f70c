"""A checkpoint as a model ready to use: one of ours (checkpoints/format.py), or a Hugging Face folder.

A Hugging Face folder (config.json, model.safetensors, tokenizer.json) of the GPT-2 or Llama kind is read too; nothing
is ever downloaded.
"""

import base64
import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from lacy_jax.checkpoints.format import META_FILE, find_checkpoint, read_config, read_meta
from lacy_jax.config import Config, ModelConfig, ObjectiveConfig, ParamsDtype
from lacy_jax.data.tokenizer import TextTokenizer, Tokenizer
from lacy_jax.errors import CheckpointError, DataError
from lacy_jax.model import decoder
from lacy_jax.model.probe import FactualProbe
from lacy_jax.paths import expand_home


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to use.

    config: of the run that made it; of a Hugging Face folder's model, `config.model` alone says something.
    params: as in model/decoder.py. path: the folder that they came from.
    step: completed updates; 0 where it was not trained here.
    call_scores: quantiles of its validation call scores, ascending, which start a cascade's budget; () without any.
    factual_probe: None where the data that it was trained on had no factual tokens, or none is known.
    data: the fingerprint of that data. versions: of the packages that it was trained with. Both {} where not known.
    family: of a Hugging Face folder, its model_type; "" of ours.
    """

    config: Config
    params: decoder.Params
    tokenizer: TextTokenizer
    path: str
    step: int = 0
    call_scores: tuple[float, ...] = ()
    factual_probe: FactualProbe | None = None
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    family: str = ""

    @property
    def model(self) -> ModelConfig:
        return self.config.model

    @property
    def learned_to_call(self) -> bool:
        """Whether its training taught it `<CALL>`."""
        return not self.family and self.config.objective.teaches_call


def load_model(path: str, *, params_dtype: ParamsDtype = "stored") -> LoadedModel:
    """Parameters, settings and tokenizer of a checkpoint, the arrays on this process' first device.

    Args:
        path: of one of ours (see `find_checkpoint`), or a Hugging Face folder; nothing is ever downloaded.
        params_dtype: of the parameters in memory. What the model computes in is another matter.

    Raises:
        CheckpointError: nothing usable at `path`; the message says what was looked for.
    """
    path = expand_home(path)
    if (Path(path) / "config.json").is_file():
        return _load_hugging_face(Path(path), params_dtype=params_dtype)
    folder = find_checkpoint(path)
    meta = read_meta(folder)
    config = read_config(meta, folder=folder)
    try:
        tokenizer = Tokenizer.from_bytes(base64.b64decode(meta["tokenizer"]))
    except (ValueError, TypeError) as error:  # DataError is a ValueError
        raise CheckpointError(f"{folder / META_FILE}: its tokenizer cannot be read ({error})") from None
    params = restore_params(folder, config.model, vocab=decoder.padded_vocab(tokenizer.vocab_size))
    if params_dtype != "stored":
        params = jax.tree.map(lambda leaf: leaf.astype(params_dtype), params)
    probe = meta.get("factual_probe")
    return LoadedModel(
        config=config,
        params=params,
        tokenizer=tokenizer,
        path=str(folder),
        step=int(meta["step"]),
        call_scores=tuple(meta.get("call_scores", ())),
        factual_probe=FactualProbe(weights=tuple(probe["weights"]), bias=probe["bias"]) if probe else None,
        data=meta.get("data", {}),
        versions=meta.get("versions", {}),
    )


def _load_hugging_face(folder: Path, *, params_dtype: ParamsDtype) -> LoadedModel:
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
    config = Config(name=folder.name, model=model, objective=ObjectiveConfig(rule="none"))
    return LoadedModel(
        config=config, params=params, tokenizer=tokenizer, path=str(folder), family=settings["model_type"]
    )


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
