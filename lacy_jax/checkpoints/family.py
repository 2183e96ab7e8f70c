"""Model families: how a Hugging Face folder of one model_type becomes our decoder.

A family is a module, or any object, with

    SUPPORTED: dict[str, tuple]         settings of config.json and the values that can be built; none means the first
    model_settings(settings) -> dict    fields of `ModelConfig` from a config.json; a KeyError names what it lacks
    parts(config) -> Parts              the tensor of each of our parameters (model/decoder.py)

Those built in also say the reverse, by which exports are made (exports/layout.py):

    written_settings(config) -> dict            a config.json that model_settings reads as this config
    written_tensors(params, config)             (name, array) of all tensors, the whole model's prefix in the names
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lacy_jax.errors import CheckpointError
from lacy_jax.registry import Registry

FAMILIES = Registry(
    kind="model_type",
    group="lacy_jax.families",
    built_in={
        "gpt2": "lacy_jax.checkpoints.families.gpt2",
        "llama": "lacy_jax.checkpoints.families.llama",
        "qwen2": "lacy_jax.checkpoints.families.qwen2",
        "qwen3": "lacy_jax.checkpoints.families.qwen3",
    },
    error=CheckpointError,
)

Transform = Callable[[np.ndarray], np.ndarray]

Parts = dict[str, tuple[str, Transform]]
"""Our parameter's path -> their tensor's name, without the whole model's prefix, and what makes ours of it.

In the name of a tensor of one layer, "{}" stands for the layer. Entries that a config has no parameter for, such as the
output matrix of a tied embedding, are not read.
"""


def same(x: np.ndarray) -> np.ndarray:
    """A tensor that is kept as we keep it."""
    return x


def layers_of(params: Mapping[str, Any], *, count: int) -> Iterator[Any]:
    """The arrays of each layer in turn, of parameters whose layers are stacked."""
    for index in range(count):
        yield jax.tree.map(lambda x, index=index: x[index], params["blocks"])
