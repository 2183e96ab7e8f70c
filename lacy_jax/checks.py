"""Checks across settings: those that are valid alone but not together are refused here, all at once."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ml_collections
import pydantic

from lacy_jax.budget import decay_begins
from lacy_jax.config import CascadeConfig, Config, OptimizerConfig, TrainingConfig
from lacy_jax.config_dict import config_from_dict
from lacy_jax.errors import ConfigError
from lacy_jax.invalid import explain
from lacy_jax.languages import language_problems, with_usual_model
from lacy_jax.presets import CLOSED_WORLD


def parse(
    settings: ml_collections.ConfigDict | dict[str, Any],
    *,
    check: Callable[[Config], Iterable[str]] = lambda _config: (),
) -> Config:
    """What a config file and the command line gave, as a checked `Config`, with the spaCy model that it leads to.

    Args:
        check: finds further problems, see `config_from_dict`.

    Raises:
        ConfigError: all problems, each naming the setting, what it got and what is allowed, or the flag to add.
    """
    given = settings if isinstance(settings, dict) else settings.to_dict()

    def problems(config: Config) -> Iterator[str]:
        yield from contradictions(config)
        asked = given.get("method") or config.method
        if asked != config.method:
            yield (
                f"config.method: got {asked!r}, but the method follows from config.objective.rule and what goes with "
                f"it, here {config.method!r}; leave config.method out, or write --config=FILE.py:method={asked}"
            )
        yield from check(with_usual_model(config))

    return with_usual_model(config_from_dict(given, check=problems))


def change_cascade(settings: CascadeConfig, changes: dict[str, Any]) -> CascadeConfig:
    """The settings with some fields changed.

    Raises:
        ConfigError: one line a field that is out of range, as `name=value: ...`.
    """
    try:
        return dataclasses.replace(settings, **changes)
    except pydantic.ValidationError as error:
        raise ConfigError(*(f"{each['loc'][0]}={each['input']}: {explain(each)}" for each in error.errors())) from None


def contradictions(config: Config) -> Iterator[str]:
    """Settings that are fine alone but not together, each as one line that names all that are concerned."""
    for check in (_model, _training, _objective, _data, _mesh, _cascade):
        yield from check(config)


def _cascade(config: Config) -> Iterator[str]:
    if config.cascade.score == "expected_saving":
        yield (
            "config.cascade.score=expected_saving: a run does not learn what its partner saves; python -m "
            "lacy_jax.calibrate --score=expected_saving does, from the run's checkpoint"
        )


def _model(config: Config) -> Iterator[str]:
    model = config.model
    if not model.head_width and model.width % model.heads:
        yield f"config.model.heads: {model.heads} does not divide config.model.width ({model.width})"
    if model.kv_heads and model.heads % model.kv_heads:
        yield f"config.model.kv_heads: {model.kv_heads} does not divide config.model.heads ({model.heads})"
    if model.positions == "rope" and model.head_size % 2:
        yield f"config.model.positions: rope needs an even width of heads, which is {model.head_size}"
    if model.rope_scaling == "llama3" and model.rope_low_factor >= model.rope_high_factor:
        yield (
            f"config.model.rope_low_factor: must be below config.model.rope_high_factor ({model.rope_high_factor}), "
            f"got {model.rope_low_factor}"
        )


def _training(config: Config) -> Iterator[str]:
    training = config.training
    if problem := _budget_problem(training):
        yield problem
    else:
        yield from _schedule(config)
    if config.data.batch_size % training.microbatches:
        yield (
            f"config.training.microbatches: {training.microbatches} does not divide config.data.batch_size "
            f"({config.data.batch_size})"
        )
    if training.keep_every % training.checkpoint_every:
        yield (
            f"config.training.keep_every: {training.keep_every} is no multiple of config.training.checkpoint_every "
            f"({training.checkpoint_every}), so there may be no checkpoint to keep"
        )
    if training.keep_best != "none" and training.checkpoint_every % training.evaluate_every:
        yield (
            f"config.training.keep_best: checkpoints are compared by their own validation, but "
            f"config.training.checkpoint_every ({training.checkpoint_every}) is no multiple of "
            f"config.training.evaluate_every ({training.evaluate_every}); add "
            f"--config.training.evaluate_every={training.checkpoint_every}"
        )


def _schedule(config: Config) -> Iterator[str]:
    optimizer, steps = config.optimizer, config.training.steps
    if optimizer.schedule != "wsd" and optimizer.decay_share != OptimizerConfig().decay_share:
        yield (
            f"config.optimizer.decay_share: only config.optimizer.schedule=wsd reads it, not {optimizer.schedule!r}; "
            "add --config.optimizer.schedule=wsd"
        )
    if optimizer.schedule == "wsd" and steps and optimizer.warmup_steps > decay_begins(config):
        yield (
            f"config.optimizer.warmup_steps: the warm-up takes {optimizer.warmup_steps:,} steps, but the learning rate "
            f"falls after {decay_begins(config):,} of {steps:,} (config.optimizer.schedule=wsd); add "
            f"--config.optimizer.warmup_steps={decay_begins(config) // 10}"
        )


def _budget_problem(training: TrainingConfig) -> str:
    budgets = {name: getattr(training, name) for name in ("steps", "tokens", "ground_truth_tokens")}
    given = [name for name, value in budgets.items() if value]
    if len(given) == 1:
        return ""
    said = f"config.training: exactly one of {', '.join(budgets)} must be above 0"
    if not given:
        return f"{said}; add --config.training.steps=1000 (or how many you want)"
    values = " and ".join(f"{name}={budgets[name]}" for name in given)
    ways = (
        f"{' '.join(f'--config.training.{other}=0' for other in given if other != name)} to go by {name}"
        for name in given
    )
    return f"{said}; got {values}: add {', or '.join(ways)}"


def _objective(config: Config) -> Iterator[str]:
    objective = config.objective
    if objective.rule == "excess_loss" and not objective.reference:
        yield (
            "config.objective.reference: config.objective.rule=excess_loss (Rho-1) needs the checkpoint of a reference "
            "model; add --config.objective.reference=WORKDIR of a run with method=ntp"
        )
    if objective.reference and objective.rule != "excess_loss":
        yield (
            "config.objective.reference: only config.objective.rule=excess_loss reads one, not "
            f"{objective.rule!r}; add --config.objective.reference="
        )
    ranks = objective.rule in ("factual_loss", "judged_loss", "loss")
    reads = ranks or (objective.treatment == "mixture" and objective.rule not in ("none", "excess_loss"))
    if objective.partner_losses == "stored" and not reads:
        yield (
            "config.objective.partner_losses: config.objective.rule=factual_loss, judged_loss and loss read them, and "
            f"with config.objective.treatment=mixture all rules but none and excess_loss; got {objective.rule!r} and "
            f"{objective.treatment!r}, add --config.objective.partner_losses=none"
        )
    if objective.call_rate and (objective.treatment != "mixture" or not objective.call_cost):
        yield (
            "config.objective.call_rate: only config.objective.treatment=mixture with a call_cost above 0 reads it; "
            f"got {objective.treatment!r} and {objective.call_cost:g}, add --config.objective.call_rate=0"
        )
    if objective.call_rate and config.training.microbatches > 1 and objective.scope == "batch":
        yield (
            "config.objective.call_rate: the price of a call is one for each microbatch; add "
            "--config.training.microbatches=1, or --config.objective.scope=microbatch"
        )
    if objective.rule == "factual" and objective.rate != 1.0:
        yield (
            "config.objective.rate: config.objective.rule=factual takes all factual targets; got "
            f"{objective.rate}, add --config.objective.rate=1"
        )
    if objective.treatment == "joint" and objective.normalizer != "renormalized":
        yield (
            "config.objective.normalizer: config.objective.treatment=joint keeps the NLL without <CALL>; add "
            "--config.objective.normalizer=renormalized"
        )
    if objective.treatment in ("soft", "mixture") and objective.normalizer != "full":
        yield (
            f"config.objective.normalizer: config.objective.treatment={objective.treatment} shares one softmax between "
            "the tokens and <CALL>; add --config.objective.normalizer=full"
        )


def _data(config: Config) -> Iterator[str]:
    corpus, annotate = config.corpus, config.annotate
    yield from language_problems(config)
    if config.data.packed and config.data.mixture:
        yield "config.data.packed: config.data.mixture names the datasets of this run; add --config.data.packed="
    files = {
        "jsonl": ("paths or globs of .jsonl or .json files (also .gz, .zst)", "FOLDER/*.jsonl"),
        "parquet": ("paths or globs of .parquet files", "FOLDER/*.parquet"),
        "text": ("folders, paths or globs of .txt or .md files", "FOLDER"),
    }
    if corpus.name in files and not corpus.files:
        wanted, example = files[corpus.name]
        yield (f"config.corpus.files: the corpus {corpus.name} needs {wanted}; add --config.corpus.files={example!r}")
    if annotate.annotator == "oracle" and corpus.name not in CLOSED_WORLD:
        yield (
            "config.annotate.annotator: oracle works with the corpus biographies only, but config.corpus.name is "
            f"{corpus.name!r}; add --config.annotate.annotator=spacy"
        )
    for name, partner, asked in (
        ("config.annotate.partner", annotate.partner, annotate.annotator == "partner"),
        ("config.cascade.partner", config.cascade.partner, True),
    ):
        if asked and partner.partition(":")[0] == "world" and corpus.name not in CLOSED_WORLD:
            yield (
                f"{name}: the partner world knows the people of the corpus biographies only, but config.corpus.name is "
                f"{corpus.name!r}; add --{name}=documents"
            )
    world = corpus.biographies
    if corpus.name in CLOSED_WORLD and world.documents < world.people:
        yield (
            f"config.corpus.biographies.documents: {world.documents} are too few for config.corpus.biographies.people "
            f"({world.people}), as each needs one; add --config.corpus.biographies.documents={world.people}"
        )
    yield from _annotate(config)
    if annotate.annotator == "tagger" and not annotate.tagger:
        yield "config.annotate.tagger: the annotator tagger needs its folder; add --config.annotate.tagger=FOLDER"
    if annotate.annotator == "spans" and not annotate.spans_file:
        yield (
            "config.annotate.spans_file: the annotator spans needs the file with the spans; add "
            "--config.annotate.spans_file=FILE.jsonl"
        )


def _annotate(config: Config) -> Iterator[str]:
    corpus, annotate = config.corpus, config.annotate
    folders = [each for each in annotate.of.split(",") if each.strip()]
    if annotate.annotator == "judge" and not annotate.judge:
        yield (
            "config.annotate.judge: the annotator judge needs a server with OpenAI's interface; add "
            "--config.annotate.judge=http://HOST:PORT/v1#MODEL"
        )
    if annotate.annotator == "links" and corpus.name not in ("jsonl", "parquet"):
        yield (
            "config.annotate.annotator: links reads marks of records of the corpora jsonl and parquet, but "
            f"config.corpus.name is {corpus.name!r}; add --config.corpus.name=jsonl --config.corpus.files=FILES, or "
            "put the marks in a file of their own (spans)"
        )
    if annotate.annotator in ("union", "intersection") and len(folders) < 2:
        yield (
            f"config.annotate.of: {annotate.annotator} needs two or more folders of annotated documents; add "
            "--config.annotate.of=DIRECTORY_A,DIRECTORY_B"
        )
    if annotate.annotator == "partner" and len(folders) > 1:
        yield f"config.annotate.of: the annotator partner takes one folder, got {len(folders)}"


def _mesh(config: Config) -> Iterator[str]:
    axes = {name: getattr(config.mesh, name) for name in ("slice", "data", "fsdp", "tensor")}
    left = [f"config.mesh.{name}" for name, size in axes.items() if size == -1]
    if len(left) > 1:
        yield f"config.mesh: at most one axis can be -1 (all devices that are left); got {' and '.join(left)}"
    for name, size in axes.items():
        if size < 1 and size != -1:
            yield f"config.mesh.{name}: got {size}; allowed are 1, 2, ... or -1 for all devices that are left"
