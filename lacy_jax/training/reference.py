"""Rho-1's frozen reference model (rule excess_loss), as one pytree: read for a run, or as shapes for compiling."""

import dataclasses

import jax
from etils import epath
from jax.sharding import Mesh

from lacy_jax.checkpoints.format import (
    find_checkpoint,
    first_readable,
    read_checksums,
    read_config,
    read_meta,
    read_tokenizer,
)
from lacy_jax.checkpoints.loading import restore_params
from lacy_jax.config import Config, ModelConfig
from lacy_jax.errors import CheckpointError
from lacy_jax.model import decoder
from lacy_jax.training.state import param_shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reference:
    """The parameters are the leaves; the model's settings are a constant of whatever is compiled for it."""

    params: decoder.Params
    model: ModelConfig = dataclasses.field(metadata={"static": True})


def load_reference(config: Config, *, tokenizer: str, vocab: int, mesh: Mesh) -> Reference | None:
    """The model of `config.objective.reference`, sharded as a model is; None for every rule that has none.

    Args:
        tokenizer: the fingerprint of the run's own. vocab: its padded vocabulary.

    Raises:
        CheckpointError: there is no such checkpoint, or it has another tokenizer.
    """
    if not config.objective.reference:
        return None

    def load(folder: epath.Path) -> Reference:
        meta = read_meta(folder)
        if read_tokenizer(meta, folder=folder).fingerprint != tokenizer:
            raise CheckpointError(
                f"config.objective.reference: {folder} has another tokenizer than this run's data; train the reference "
                "on data with the same tokenizer (config.tokenizer.path)"
            )
        model = read_config(meta, folder=folder).model
        shardings = param_shardings(mesh, decoder.param_shapes(model, vocab=vocab))
        checksums = read_checksums(meta, item="params")
        params = restore_params(folder, model, vocab=vocab, checksums=checksums, shardings=shardings)
        return Reference(params, model)

    return first_readable(config.objective.reference, load)


def reference_shapes(config: Config, *, vocab: int, mesh: Mesh) -> Reference | None:
    """The shapes of what `load_reference` gives, placed as it places them; nothing but settings is read.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    if not config.objective.reference:
        return None
    folder = find_checkpoint(config.objective.reference)
    model = read_config(read_meta(folder), folder=folder).model
    shapes = decoder.param_shapes(model, vocab=vocab)
    placed = param_shardings(mesh, shapes)
    return Reference(
        jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed), model
    )
