"""The door of settings: what is right in itself but does not go together is refused here."""

from collections.abc import Iterator
from typing import Any

import ml_collections

from lacy_jax.config import Config, config_from_dict
from lacy_jax.errors import ConfigError


def parse(settings: ml_collections.ConfigDict | dict[str, Any]) -> Config:
    """What a config file and the command line gave, as a checked `Config`.

    Raises:
        ConfigError: see `config_from_dict`; or settings that do not go together, one line each.
    """
    config = config_from_dict(settings if isinstance(settings, dict) else settings.to_dict())
    problems = list(contradictions(config))
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def contradictions(config: Config) -> Iterator[str]:
    """Settings that are fine alone but not together, each as one line."""
    model, objective, training = config.model, config.objective, config.training
    if model.width % model.heads:
        yield f"config.model.heads: {model.heads} does not divide config.model.width ({model.width})"
    if model.kv_heads and model.heads % model.kv_heads:
        yield f"config.model.kv_heads: {model.kv_heads} does not divide config.model.heads ({model.heads})"
    if model.positions == "rope" and model.width // model.heads % 2:
        yield "config.model.positions: rope needs an even head width (config.model.width / config.model.heads)"
    if model.rope_scaling == "llama3" and model.rope_low_factor >= model.rope_high_factor:
        yield (
            f"config.model.rope_low_factor: must be below config.model.rope_high_factor ({model.rope_high_factor}), "
            f"got {model.rope_low_factor}"
        )
    budgets = {name: getattr(training, name) for name in ("steps", "tokens", "ground_truth_tokens")}
    if sum(value > 0 for value in budgets.values()) != 1:
        given = ", ".join(f"{name}={value}" for name, value in budgets.items())
        yield f"config.training: exactly one of steps, tokens, ground_truth_tokens must be above 0; got {given}"
    if config.data.batch_size % training.microbatches:
        yield (
            f"config.training.microbatches: {training.microbatches} does not divide config.data.batch_size "
            f"({config.data.batch_size})"
        )
    if objective.rule == "excess_loss" and not objective.reference:
        yield "config.objective.reference: rule excess_loss (Rho-1) needs the checkpoint of a reference model"
    if objective.reference and objective.rule != "excess_loss":
        yield f"config.objective.reference: only rule excess_loss reads one, not {objective.rule!r}"
    if objective.rule == "factual" and objective.rate != 1.0:
        yield f"config.objective.rate: rule factual takes all factual targets; allowed is 1.0, got {objective.rate}"
    if objective.treatment == "joint" and objective.normalizer != "renormalized":
        yield "config.objective.normalizer: treatment joint keeps the NLL without <CALL>; allowed is renormalized"
    if config.corpus.name == "jsonl" and not config.corpus.files:
        yield "config.corpus.files: corpus jsonl needs paths or globs of .jsonl, .jsonl.gz or .jsonl.zst files"
    if config.annotate.annotator == "oracle" and config.corpus.name != "biographies":
        yield f"config.annotate.annotator: oracle knows the corpus biographies alone, not {config.corpus.name!r}"
    world = config.corpus.biographies
    if config.corpus.name == "biographies" and world.documents < world.people:
        yield (
            f"config.corpus.biographies.documents: {world.documents} are too few for {world.people} people, who have "
            "one each at least"
        )
    if config.annotate.annotator == "spans" and not config.annotate.spans_file:
        yield "config.annotate.spans_file: annotator spans needs the file with the spans"
    axes = ("slice", "data", "fsdp", "tensor")
    if sum(getattr(config.mesh, axis) == -1 for axis in axes) > 1:
        yield f"config.mesh: at most one of {', '.join(axes)} can be -1 (all devices that are left)"
    for axis in axes:
        if (size := getattr(config.mesh, axis)) < 1 and size != -1:
            yield f"config.mesh.{axis}: got {size}; allowed are 1, 2, ... or -1 for all devices that are left"
