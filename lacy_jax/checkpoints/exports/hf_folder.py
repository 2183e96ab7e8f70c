"""A Hugging Face folder of a model: what AutoModelForCausalLM and AutoTokenizer read, and what they do not know.

They read config.json, model.safetensors, tokenizer.json, tokenizer_config.json and generation_config.json. README.md is
the model's card. cascade.json is how the checkpoint's cascade calls: its settings, the scores that its budget starts
with, and its probes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from lacy_jax.checkpoints.exports import ExportDtype
from lacy_jax.checkpoints.exports.card import card
from lacy_jax.checkpoints.exports.gguf_tokens import cut_of
from lacy_jax.checkpoints.exports.layout import CALL, Outgoing, outgoing, settings_of, tensors_of
from lacy_jax.checkpoints.exports.tokenizer_json import tokenizer_json
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.data.files import parse_json
from lacy_jax.errors import CheckpointError

CASCADE_FILE = "cascade.json"
# Settings of `config.cascade` in it, as they are; the score is there, too, by its name in place of "auto".
CASCADE_SETTINGS = ("policy", "price", "budget", "window", "gate", "span", "max_new_tokens")
LAST_FILE = "config.json"  # by which a folder is taken for one of these


def write_hf_folder(folder: Path, loaded: LoadedModel, *, dtype: ExportDtype) -> None:
    """Writes the files into `folder`, which exists and is empty.

    Raises:
        CheckpointError: the model cannot be written so.
    """
    model = outgoing(loaded)
    settings = settings_of(model)
    words = tokenizer_json(model)
    if settings["model_type"] == "qwen2":
        _check_qwen2(words)
    (folder / "tokenizer.json").write_text(words, encoding="utf-8")
    tensors = dict(tensors_of(model, dtype=dtype))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    # The library makes a file for its owner alone.
    (folder / "model.safetensors").chmod((folder / "tokenizer.json").stat().st_mode)
    settings["torch_dtype"] = max((x.dtype for x in tensors.values()), key=lambda each: each.itemsize).name
    _write(folder / "generation_config.json", generation_settings(model))
    _write(folder / "tokenizer_config.json", _tokenizer_settings(model))
    if model.has_call:
        _write(folder / CASCADE_FILE, cascade_settings(model))
    (folder / "README.md").write_text(card(model), encoding="utf-8")
    _write(folder / LAST_FILE, settings)


def generation_settings(model: Outgoing) -> dict[str, Any]:
    """generation_config.json: all tokens that end a text end it, and control tokens that do not are never written."""
    tokenizer = model.tokenizer
    control = np.flatnonzero(tokenizer.byte_lengths[: model.tokens] == 0).tolist()
    settings = settings_of(model)
    return {
        "bos_token_id": settings["bos_token_id"],
        "eos_token_id": list(tokenizer.end_ids),
        "pad_token_id": tokenizer.end_id,
        "suppress_tokens": [index for index in control if index not in tokenizer.end_ids] or None,
    }


def cascade_settings(model: Outgoing) -> dict[str, Any]:
    """cascade.json: what the cascade of this checkpoint calls by (docs/exporting.md)."""
    loaded, settings = model.loaded, model.loaded.config.cascade
    return {
        "call_token": CALL,
        "call_token_id": model.tokenizer.call_id,
        "start_token_id": model.tokenizer.start_id,
        "end_token_ids": list(model.tokenizer.end_ids),
        "learned_to_call": loaded.learned_to_call,
        "score": loaded.own_score if settings.score == "auto" else settings.score,
        **{name: getattr(settings, name) for name in CASCADE_SETTINGS},
        "call_scores": list(loaded.call_scores),
        "factual_probe": loaded.factual_probe and loaded.factual_probe.to_dict(),
        "saving_probe": loaded.saving_probe and loaded.saving_probe.to_dict(),
    }


def _tokenizer_settings(model: Outgoing) -> dict[str, Any]:
    """tokenizer_config.json."""
    chat = model.loaded.chat
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.loaded.model.context,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "unk_token": None,
        **model.named(),
    }
    if chat:
        settings["chat_template"] = chat.source
    else:  # a name of a control token in a text is text; a chat template writes control tokens by their names
        settings["split_special_tokens"] = True
    return settings


def _check_qwen2(words: str) -> None:
    """Raises `CheckpointError` where transformers would read another tokenizer: of a Qwen2 it takes the family's."""
    definition = parse_json(words)
    if definition["model"].get("byte_fallback") or cut_of(definition) != "qwen2":
        raise CheckpointError(
            "a model with config.model.qkv_bias is a Qwen2 for transformers, which reads every Qwen2 with that "
            "family's tokenizer, and this model has another; --format=gguf keeps it"
        )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(f"{json.dumps(content, ensure_ascii=False, indent=2)}\n", encoding="utf-8")
