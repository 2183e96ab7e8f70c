"""The pretrained model that a run starts from, `config.model.initial`: its sizes, its tokenizer, its parameters.

It may be whatever a checkpoint may be: one of ours, a Hugging Face folder, a GGUF file. The settings of the model come
from there, except those in `OWN`; its tokenizer packs the data; the row of `<CALL>` is added where it has none.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from lacy_jax.checkpoints.chat_template import ChatTemplate, template_of_description
from lacy_jax.checkpoints.foreign import open_foreign
from lacy_jax.checkpoints.format import first_readable, kind_of, read_config, read_meta, read_tokenizer
from lacy_jax.checkpoints.loading import load_model, shortened
from lacy_jax.checks import parse
from lacy_jax.config import Config, ModelConfig
from lacy_jax.config_dict import config_to_dict
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.errors import CheckpointError, ConfigError
from lacy_jax.paths import expand_home
from lacy_jax.runtime import distributed

# Settings that stay the run's own: how long its windows are, and how it computes.
OWN = ("initial", "context", "compute_dtype", "layer_loop", "remat", "attention", "attention_within")


@dataclasses.dataclass(frozen=True, eq=False)
class Initial:
    """A pretrained model without its parameters. kind: its family, or "lacy_jax"."""

    model: ModelConfig
    tokenizer: TextTokenizer
    kind: str


def read_initial(path: str) -> Initial:
    """The description of the model at `path`; its weights are not read.

    Raises:
        CheckpointError: there is none that can be used.
    """
    path = expand_home(path)
    kind = kind_of(path)
    if kind != "own":
        found = open_foreign(path, kind=kind)
        return Initial(found.model, found.tokenizer(), found.family)

    def read(folder: epath.Path) -> Initial:
        meta = read_meta(folder)
        return Initial(read_config(meta, folder=folder).model, read_tokenizer(meta, folder=folder), "lacy_jax")

    return first_readable(path, read)


def with_initial(config: Config) -> tuple[Config, TextTokenizer | None]:
    """The settings with those of the model at `config.model.initial`, and its tokenizer; without one, as they are.

    Raises:
        CheckpointError: there is none that can be used.
        ConfigError: the settings contradict it.
    """
    if not config.model.initial:
        return config, None
    try:
        found = read_initial(config.model.initial)
    except CheckpointError as error:
        raise CheckpointError(f"config.model.initial: {error}") from None
    if config.tokenizer.path:
        raise ConfigError(
            "config.tokenizer.path: config.model.initial brings its own tokenizer; add --config.tokenizer.path="
        )
    if config.model.context > found.model.context:
        raise ConfigError(
            f"config.model.context: {config.model.context} is more than the {found.model.context} of the model in "
            f"config.model.initial; add --config.model.context={found.model.context}"
        )
    own = {name: getattr(config.model, name) for name in OWN}
    model = dataclasses.replace(found.model, **own)
    tokenizer = dataclasses.replace(config.tokenizer, vocab_size=found.tokenizer.call_id)
    changed = dataclasses.replace(config, model=model, tokenizer=tokenizer)
    return parse(config_to_dict(changed)), found.tokenizer


def initial_chat(path: str) -> ChatTemplate | None:
    """The chat template of the model at `path`, if it has one; a run that starts from it keeps it.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = expand_home(path)
    kind = kind_of(path)
    if kind != "own":
        return open_foreign(path, kind=kind).chat()
    return first_readable(
        path, lambda folder: template_of_description(read_meta(folder).get("chat"), where=str(folder))
    )


def initial_params(config: Config) -> dict[str, Any]:
    """The parameters of the model at `config.model.initial`: the tree of a decoder, float32, on the host.

    The row of `<CALL>` is the mean of the others where the model has none: as likely as an average token.

    Raises:
        CheckpointError: it cannot be read, or is no longer the model of these settings.
    """
    # Under the mesh of a run JAX computes nothing from arrays on one device alone.
    with jax.set_mesh(jax.sharding.Mesh(np.array(jax.local_devices()[:1]), ("one",))):
        loaded = load_model(config.model.initial, params_dtype="float32")
    distributed.check_agreement("newest whole steps of config.model.initial", loaded.step)
    own = {name: getattr(config.model, name) for name in OWN}
    if dataclasses.replace(loaded.model, **own) != config.model:
        raise CheckpointError(f"config.model.initial: {loaded.path} is another model than when this run was set up")
    # On the host: a run's mesh may be others' devices.
    on_host = dataclasses.replace(loaded, params=jax.tree.map(np.asarray, loaded.params))
    params: dict[str, Any] = shortened(on_host, context=config.model.context).params
    if not loaded.family:
        return params
    call_id, tables = loaded.tokenizer.call_id, {"embedding", "output"} & params.keys()
    return {**params, **{name: {"embedding": _with_mean(params[name]["embedding"], call_id)} for name in tables}}


def _with_mean(table_VD: np.ndarray, call_id: int) -> np.ndarray:
    """The table with the mean of its first `call_id` rows in the row after them."""
    filled = table_VD.copy()
    filled[call_id] = table_VD[:call_id].mean(axis=0)
    return filled
