"""A model on its way out: which family of others it is, its config.json, its tensors, what they know of `<CALL>`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lacy_jax.checkpoints.exports import ExportDtype
from lacy_jax.checkpoints.family import FAMILIES
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import ModelConfig
from lacy_jax.data.tokenizer import TextTokenizer, Tokenizer, starting_with
from lacy_jax.errors import CheckpointError

CALL = "<CALL>"
# What each kind is built like; what our config may say besides is checked below.
_GPT2 = {"norm": "layernorm", "activation": "gelu", "qk_norm": False}
_LLAMA = {"norm": "rmsnorm", "activation": "swiglu", "bias": False}
_BY_TOKEN = ("embed_tokens.weight", "wte.weight", "lm_head.weight")


@dataclass(frozen=True, eq=False)
class Outgoing:
    """A model to be written for others.

    tokenizer: the model's, with its own setting of what stands before a text. opening: the token that its tokenizer
    puts before a text there, None for nothing. has_call: whether `<CALL>` is one of its tokens: of a model that came
    from others as it is, it is not. tokens: how many it has, rows of its embedding.
    """

    loaded: LoadedModel
    tokenizer: TextTokenizer
    opening: int | None
    has_call: bool

    @property
    def tokens(self) -> int:
        return self.tokenizer.call_id + self.has_call

    def name_of(self, token: int) -> str:
        """The name of a control token."""
        return next(name for name, index in self.tokenizer.control_tokens().items() if index == token)

    def named(self) -> dict[str, str]:
        """Control tokens by their use ("bos_token"); a chat template finds those that it was written for."""
        end = self.name_of(self.tokenizer.end_id)
        start = end if self.tokenizer.start_id is None else self.name_of(self.tokenizer.start_id)
        chat = self.loaded.chat.names if self.loaded.chat else {}
        names = {"bos_token": start, "eos_token": end, "pad_token": end, **chat}
        if self.opening is not None:
            names["bos_token"] = start  # what stands before a text is that, whatever the template calls so
        known = self.tokenizer.control_tokens()
        return {use: name for use, name in names.items() if name in known}


def outgoing(loaded: LoadedModel) -> Outgoing:
    """The model, ready to be written.

    A tokenizer that was trained here puts before a text what the cascade does. One that came with a pretrained model
    goes on doing what it did, unless `config.cascade.start_token` names a token.

    Raises:
        ConfigError: the start token in its settings is none of its tokenizer's.
    """
    named = loaded.config.cascade.start_token
    tokenizer = starting_with(loaded.tokenizer, named)
    adds = isinstance(tokenizer, Tokenizer) or named != "auto" or tokenizer.start_id != tokenizer.end_id
    return Outgoing(loaded, tokenizer, tokenizer.start_id if adds else None, has_call=not loaded.family)


def family_of(config: ModelConfig) -> Any:
    """The family (family.py) whose models are built like ours.

    Raises:
        CheckpointError: no family is; the message names the settings.
    """
    gpt2 = config.positions == "learned"
    wrong = {name: value for name, value in (_GPT2 if gpt2 else _LLAMA).items() if getattr(config, name) != value}
    if gpt2 and config.head_size * config.heads != config.width:
        wrong["head_width"] = 0
    if gpt2 and config.kv_heads not in (0, config.heads):
        wrong["kv_heads"] = 0
    if not gpt2 and config.qkv_bias and config.qk_norm:
        wrong["qkv_bias"] = False
    if wrong:
        said = "; ".join(f"config.model.{name}={getattr(config, name)} (only {value})" for name, value in wrong.items())
        raise CheckpointError(
            f"a model with config.model.positions={config.positions} cannot be written for others with {said}: neither "
            "GPT-2, Llama nor Qwen is built so; --format=orbax keeps it"
        )
    kind = "gpt2" if gpt2 else "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    return FAMILIES.load(kind)


def settings_of(model: Outgoing) -> dict[str, Any]:
    """Its config.json.

    Raises:
        CheckpointError: as `family_of`.
    """
    config, tokenizer = model.loaded.model, model.tokenizer
    return {
        **family_of(config).written_settings(config),
        "vocab_size": model.tokens,
        "bos_token_id": tokenizer.end_id if tokenizer.start_id is None else tokenizer.start_id,
        "eos_token_id": tokenizer.end_ids[0] if len(tokenizer.end_ids) == 1 else list(tokenizer.end_ids),
    }


def tensors_of(model: Outgoing, *, dtype: ExportDtype) -> Iterator[tuple[str, np.ndarray]]:
    """Names as in published files, and arrays, one after the other.

    Raises:
        CheckpointError: as `family_of`, or a number that the dtype cannot hold.
    """
    config = model.loaded.model
    params = jax.tree.map(np.asarray, model.loaded.params)
    for name, array in family_of(config).written_tensors(params, config):
        rows = array[: model.tokens] if name.endswith(_BY_TOKEN) else array
        yield name, _cast(rows, dtype, name=name)


def _cast(array: np.ndarray, dtype: ExportDtype, *, name: str) -> np.ndarray:
    if dtype == "stored":
        return np.ascontiguousarray(array)
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(array.astype(jax.numpy.dtype(dtype)))
    if not np.isfinite(found.astype(np.float32)).all():
        raise CheckpointError(f"--dtype={dtype}: the tensor {name} has numbers beyond it; take bfloat16 or float32")
    return found
