"""Settings of a run: frozen dataclasses, validated once, at the door.

A config file (configs/*.py) fills a `ConfigDict`, the command line overrides single fields
(`--config.training.steps=2`), and `parse` (checks.py) turns the result into a frozen `Config`. Below the door
nothing sees ml_collections, and no value needs to be checked again.
"""

import dataclasses
import difflib
from typing import Annotated, Any, Literal

import ml_collections
import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

from lacy_jax.errors import ConfigError

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]

# The names that settings may take, each list here alone. The rooms that act on them import it, and not the other way
# round, so that reading settings imports no JAX (130 MiB in every process that annotates).
SubTokens = Literal["all", "first"]
Remat = Literal["none", "dots", "full"]
AttentionName = Literal["auto", "xla", "cudnn", "splash"]
Rule = Literal["none", "factual_loss", "loss", "excess_loss", "judged_loss", "factual", "random", "random_factual"]
RateOf = Literal["factual", "valid"]
Treatment = Literal["call", "ignore", "joint"]
Normalizer = Literal["renormalized", "full"]
Score = Literal["call_score", "call_logit", "call_probability", "uncertainty", "entropy"]
ScoreSetting = Literal["auto", Score]
Gate = Literal["none", "factual"]
Account = Literal["row", "shared"]
Span = Literal["token", "word", "phrase"]

_STRICT = pydantic.ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class BiographiesConfig:
    """The closed world: invented people and their biographies (docs/biographies.md)."""

    people: Annotated[int, Field(ge=2, le=100_000)] = 1_000
    documents: Positive = 20_000  # biographies of all people together, by Zipf's law
    held_out_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05  # of the people: nothing is written of them
    wording: Literal["free", "fixed"] = "free"  # fixed: one sentence a relation, the negative control
    seed: Count = 0


@dataclass(frozen=True, config=_STRICT)
class CorpusConfig:
    """Where documents come from, and which of them are held out."""

    name: Literal["vital_articles", "jsonl", "tfds", "biographies"] = "vital_articles"
    biographies: BiographiesConfig = BiographiesConfig()
    # jsonl: one path or glob, or several separated by commas (.jsonl, .jsonl.gz, .jsonl.zst).
    files: str = ""
    id_field: str = "id"
    title_field: str = "title"
    text_field: str = "text"
    # tfds: any TFDS dataset with title and text features, read from (or prepared into) tfds_dir.
    tfds_name: str = "wikipedia/20230601.en"
    tfds_dir: str = ""
    tfds_download: bool = False
    max_documents: Count = 0  # 0: all of them
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.02


@dataclass(frozen=True, config=_STRICT)
class AnnotateConfig:
    """Who marks the facts. The rule (below) chooses among the marks later, when packing."""

    annotator: Literal["spacy", "spans", "oracle"] = "spacy"
    spacy_model: str = ""  # "": an installed en_core_web_sm, else its mirror package
    # spans: a .jsonl file (also .gz, .zst) of {"id": ..., "spans": [[start, end, kind], ...]}.
    spans_file: str = ""
    # oracle, of the corpus biographies alone: the words of every stated value, made worse on purpose below 1.
    oracle_precision: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    oracle_recall: Share = 1.0
    workers: Count = 0  # 0: one per core


@dataclass(frozen=True, config=_STRICT)
class RuleConfig:
    """Which marked words count as factual (docs/design.md, `subject-free first mentions`)."""

    # Kinds that count: "entity" stands for every entity label; others by name, e.g. "PROPN,NUM,DATE".
    kinds: str = "entity,PROPN,NUM"
    exclude_subjects: bool = True
    first_mention_only: bool = True
    sub_tokens: SubTokens = "all"


@dataclass(frozen=True, config=_STRICT)
class TokenizerConfig:
    """SentencePiece: trained on the corpus' training split, or loaded from `path`."""

    path: str = ""
    vocab_size: Annotated[int, Field(ge=300)] = 32_000  # pieces; <CALL> comes on top
    train_characters: Positive = 200_000_000


@dataclass(frozen=True, config=_STRICT)
class DataConfig:
    """Where prepared data lies, and in what order it is read."""

    directory: str = "runs/data"
    # A packed dataset made elsewhere (its TFDS version folder); "": prepare what is missing.
    packed: str = ""
    batch_size: Positive = 112
    seed: Count = 0


@dataclass(frozen=True, config=_STRICT)
class ModelConfig:
    """Decoder: the defaults are GPT-2's, the alternatives Llama's."""

    layers: Positive = 18
    width: Positive = 768
    heads: Positive = 12
    kv_heads: Count = 0  # 0: as many as heads
    mlp_width: Count = 0  # 0: four times the width
    context: Annotated[int, Field(ge=8)] = 1024
    positions: Literal["learned", "rope"] = "learned"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    activation: Literal["gelu", "swiglu"] = "gelu"
    bias: bool = True
    tied_embedding: bool = True
    norm_epsilon: Annotated[float, Field(gt=0.0)] = 1e-5
    rope_theta: Annotated[float, Field(gt=0.0)] = 10_000.0
    # Rotary frequencies of a model whose context was extended after training (model/attention.py, rope_frequencies).
    rope_scaling: Literal["none", "linear", "llama3"] = "none"
    rope_factor: Annotated[float, Field(ge=1.0)] = 1.0
    rope_low_factor: Annotated[float, Field(gt=0.0)] = 1.0  # this and the next two: llama3
    rope_high_factor: Annotated[float, Field(gt=0.0)] = 4.0
    rope_original_context: Positive = 8192
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    layer_loop: Literal["scan", "unroll"] = "scan"
    remat: Remat = "none"
    # In training. auto: splash on TPUs, else xla. cudnn, on NVIDIA GPUs, is asked for by name (docs/tpu.md).
    attention: AttentionName = "auto"


@dataclass(frozen=True, config=_STRICT)
class ObjectiveConfig:
    """What is taken, how much of it, and what happens to it (paper section 2)."""

    rule: Rule = "factual_loss"
    rate: Share = 0.6
    rate_of: RateOf = "factual"
    rate_warmup_steps: Count = 0
    treatment: Treatment = "call"
    normalizer: Normalizer = "full"
    joint_weight: NonNegative = 1.0
    scope: Literal["batch", "microbatch"] = "batch"
    # Above 1 the head never holds all logits (docs/objective.md). These always divide the padded vocabulary.
    vocab_chunks: Literal[1, 2, 4, 8, 16, 32, 64, 128] = 1
    reference: str = ""  # excess_loss: the reference model's checkpoint


@dataclass(frozen=True, config=_STRICT)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay; defaults of LMLM (arXiv 2505.15962)."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    final_share: Share = 0.1  # of the peak learning rate, at the end of the budget
    warmup_steps: Count = 2_000
    b1: Share = 0.9
    b2: Share = 0.95
    epsilon: Annotated[float, Field(gt=0.0)] = 1e-8
    weight_decay: NonNegative = 0.1
    clip_norm: NonNegative = 1.0  # 0: no clipping


@dataclass(frozen=True, config=_STRICT)
class TrainingConfig:
    """How long, how often. Exactly one of the three budgets is set; the others are 0."""

    steps: Count = 0
    tokens: Count = 0
    ground_truth_tokens: Count = 0  # targets that gave a ground-truth gradient: the paper's matching
    seed: Count = 0
    microbatches: Positive = 1
    log_every: Positive = 50
    evaluate_every: Positive = 1_000
    evaluate_batches: Positive = 16
    checkpoint_every: Positive = 1_000
    keep_checkpoints: Positive = 2
    # A step that takes longer prints the stack of every thread; three times that where it compiles. 0: never.
    hang_seconds: NonNegative = 600.0


@dataclass(frozen=True, config=_STRICT)
class MeshConfig:
    """Devices an axis; one of them may be -1: all that are left. How to choose them: docs/distributed.md."""

    data: int = -1
    fsdp: int = 1  # parameters and optimizer state split too
    tensor: int = 1  # heads, feed-forward and vocabulary split too
    slice: int = 1  # groups joined by a slower network: slices of TPUs, nodes of GPUs
    # Start only if no device holds more MiB of an array that fsdp or tensor could split and does not.
    largest_replicated_mib: Positive = 16


@dataclass(frozen=True, config=_STRICT)
class CascadeConfig:
    """How a cascade of this model decodes: defaults of the report's samples, of `generate` and of `serve`."""

    partner: str = "documents"
    budget: Share = 0.22
    window: Positive = 512
    # "auto": the call score of a model that was trained to call, else its uncertainty (docs/cascade.md).
    score: ScoreSetting = "auto"
    gate: Gate = "none"
    account: Account = "row"
    span: Span = "phrase"  # how far the partner writes at a call
    timeout: Annotated[float, Field(gt=0.0)] = 30.0  # seconds that the partner has to answer
    max_new_tokens: Positive = 64
    samples: Count = 6


@dataclass(frozen=True, config=_STRICT)
class Config:
    """A whole run."""

    name: str = "custom"
    method: str = "lacy_full"
    corpus: CorpusConfig = CorpusConfig()
    annotate: AnnotateConfig = AnnotateConfig()
    rule: RuleConfig = RuleConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig(steps=100_000)
    mesh: MeshConfig = MeshConfig()
    cascade: CascadeConfig = CascadeConfig()


def config_to_dict(config: Config) -> dict[str, Any]:
    """The settings as nested plain dicts, for JSON."""
    return dataclasses.asdict(config)


def config_from_dict(settings: dict[str, Any]) -> Config:
    """Settings from nested plain dicts, types and ranges checked.

    Raises:
        ConfigError: one line a problem, naming the field, what it got and what is allowed.
    """
    try:
        return pydantic.TypeAdapter(Config).validate_python(settings)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_describe(problem) for problem in error.errors())) from None


def base_config() -> ml_collections.ConfigDict:
    """All settings at their defaults, for a config file to change."""
    return ml_collections.ConfigDict(config_to_dict(Config()))


def change_cascade(settings: CascadeConfig, changes: dict[str, Any]) -> CascadeConfig:
    """The settings with some fields changed.

    Raises:
        ConfigError: one line a field that is out of range, as `name=value: ...`.
    """
    try:
        return dataclasses.replace(settings, **changes)
    except pydantic.ValidationError as error:
        lines = (f"{e['loc'][0]}={e['input']}: {e['msg'][0].lower()}{e['msg'][1:]}" for e in error.errors())
        raise ConfigError("\n".join(lines)) from None


def _describe(problem: Any) -> str:
    """One line for one of pydantic's errors."""
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        *section, name = problem["loc"]
        known = [f.name for f in dataclasses.fields(_section_type(section))]
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"config.{field}: unknown setting; {hint}allowed are {', '.join(known)}"
    return f"config.{field}: got {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _section_type(path: list[Any]) -> Any:
    node: Any = Config
    for part in path:
        node = next(f.type for f in dataclasses.fields(node) if f.name == part)
    return node
