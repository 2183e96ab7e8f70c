"""Settings of a run: frozen dataclasses, validated once, at the door.

A config file (configs/*.py) fills a `ConfigDict`, the command line overrides single fields, and `parse` (checks.py)
turns the result into a frozen `Config`. Below the door nothing sees ml_collections, and no value needs to be checked
again. What a setting means stands beside it alone: docs/settings.md is made of it (settings_page.py).
"""

import dataclasses
from typing import Annotated, Literal, TypeVar

import ml_collections
import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

from lacy_jax.paths import Path, Paths
from lacy_jax.presets import METHODS

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
MOST_CONTEXT = 1 << 20  # tokens in a window: it is also read from files of others, and says how much is allocated
Share = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Above0 = Annotated[float, Field(gt=0.0)]

SMALLEST_VOCABULARY = 300  # pieces: the 256 bytes, three control tokens, and some of more than one character

# The names that settings may take, each list here alone. The rooms that act on them import it, and not the other way
# round, so that reading settings imports no JAX (130 MiB in every process that annotates).
Shuffle = Literal["full", "block"]
SubTokens = Literal["all", "first"]
Remat = Literal["none", "dots", "full"]
ComputeDtype = Literal["float32", "bfloat16"]
ParamsDtype = Literal["stored", ComputeDtype]
AttentionName = Literal["auto", "xla", "cudnn", "splash"]
Rule = Literal["none", "factual_loss", "loss", "excess_loss", "judged_loss", "factual", "random", "random_factual"]
RateOf = Literal["factual", "valid"]
Treatment = Literal["call", "ignore", "joint", "soft", "mixture"]
Normalizer = Literal["renormalized", "full"]
Score = Literal["call_score", "call_logit", "call_probability", "uncertainty", "entropy", "factual", "expected_saving"]
ScoreSetting = Literal["auto", Score]
Gate = Literal["none", "factual"]
Account = Literal["row", "shared"]
Policy = Literal["quantile", "price"]
PartnerLosses = Literal["none", "stored"]
Span = Literal["token", "word", "phrase"]
OptimizerName = Literal["adamw", "muon"]
Schedule = Literal["cosine", "wsd"]
BestBy = Literal[
    "none", "loss", "nll/factual", "nll/other", "bits_per_byte", "accuracy", "roc/factual", "roc/factual_and_wrong"
]

_STRICT = pydantic.ConfigDict(extra="forbid")
_T = TypeVar("_T")


def setting(default: _T, meaning: str) -> _T:
    """A field with its default and its meaning. For a type checker it is the default."""
    return Field(default, description=meaning)


@dataclass(frozen=True, config=_STRICT)
class BiographiesConfig:
    """The closed world: invented people and their biographies (docs/biographies.md)."""

    people: Annotated[int, Field(ge=2, le=100_000)] = setting(1_000, "How many people the world has.")
    documents: Positive = setting(20_000, "Biographies of all people together, shared out by Zipf's law.")
    held_out_share: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(0.05, "Share of the people who get no biography.")
    wording: Literal["free", "fixed"] = setting(
        "free", "How sentences are worded. fixed: one sentence for each relation, the negative control."
    )
    seed: Count = setting(0, "Seed of the world and its biographies.")


@dataclass(frozen=True, config=_STRICT)
class CorpusConfig:
    """Where documents come from, and which of them are held out."""

    name: str = setting(
        "vital_articles",
        "vital_articles, jsonl, parquet, text, tfds, biographies, biographies_told, or a package's (docs/adding.md).",
    )
    biographies: BiographiesConfig = BiographiesConfig()
    files: Paths = setting("", "jsonl, parquet, text: paths and globs, separated by commas; text: folders, too.")
    id_field: str = setting("id", "jsonl, parquet: the field of the id. One without it is named by its line or row.")
    title_field: str = setting("title", "jsonl, parquet: the field of the title, which a document may lack.")
    text_field: str = setting("text", "jsonl, parquet: the field of the text, which every document must have.")
    tfds_name: str = setting("wikipedia/20230601.en", "tfds: any TFDS dataset with the features title and text.")
    tfds_dir: Path = setting("", "tfds: the folder that it is read from, or prepared into.")
    tfds_download: bool = setting(False, "tfds: whether it may be downloaded where it is missing.")
    language: str = setting(
        "",
        "Code of the language (en, de, ja ...), for the usual spaCy model. Empty: a Wikipedia's own, or else English. "
        "vital_articles: en, es or fr.",
    )
    max_documents: Count = setting(0, "How many documents are read. 0: all of them.")
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = setting(
        0.02, "Share of the documents that is held out, chosen by the hash of their ids."
    )


@dataclass(frozen=True, config=_STRICT)
class AnnotateConfig:
    """Who marks the facts. The rule (below) chooses among the marks later, when packing."""

    annotator: str = setting(
        "spacy",
        "Who marks: spacy, tagger, judge, partner, links, spans, union, intersection, oracle, or a package's "
        "(docs/annotation.md).",
    )
    spacy_model: Path = setting(
        "", "spacy: the model. Empty: the usual one of the corpus' language (docs/languages.md)."
    )
    spans_file: Path = setting(
        "", 'spans: a .jsonl file (also .gz, .zst) of {"id": ..., "spans": [[start, end, kind], ...]}.'
    )
    judge: str = setting("", "judge: the server that is asked, http://HOST:PORT/v1#MODEL (docs/annotation.md).")
    judge_body: str = setting("{}", "judge: further entries of each request, as JSON; null leaves one out.")
    max_requests: Count = setting(0, "judge: the most requests that one start sends. 0: any number.")
    partner: str = setting("documents", "partner: who is asked for phrases, as in --partner (docs/partners.md).")
    of: Paths = setting(
        "",
        "union, intersection: two or more folders of annotated documents, separated by commas. partner: one folder; "
        "the partner is asked only where its marks begin.",
    )
    links_field: str = setting("links", "links: the field or column of the corpus with the marks; a.b for b within a.")
    tagger: Path = setting("", "tagger: its folder, made by python -m lacy_jax.tagger (docs/tagger.md).")
    tagger_threshold: Share = setting(0.5, "tagger: how probable a mark must be.")
    oracle_precision: Annotated[float, Field(gt=0.0, le=1.0)] = setting(
        1.0,
        "oracle: the precision of its marks; below 1 some are wrong on purpose. It marks the words of every stated "
        "value in the corpus biographies.",
    )
    oracle_recall: Share = setting(1.0, "oracle: the recall of its marks.")
    workers: Count = setting(0, "Processes that mark. 0: one for each core.")
    timeout: Above0 = setting(
        300.0,
        "Seconds that such a process may take for 100,000 characters, or fewer. A longer document has more, in "
        "proportion (docs/preparing.md).",
    )


@dataclass(frozen=True, config=_STRICT)
class RuleConfig:
    """Which marked words count as factual (docs/annotation.md)."""

    kinds: str = setting(
        "entity,PROPN,NUM", "Kinds that count. entity stands for every entity label; others by name, e.g. DATE."
    )
    exclude_subjects: bool = setting(True, "Whether words of a grammatical subject do not count.")
    first_mention_only: bool = setting(True, "Whether a word counts only where it stands first in its document.")
    sub_tokens: SubTokens = setting("all", "Which tokens of a word that counts are factual: all, or the first.")


@dataclass(frozen=True, config=_STRICT)
class TokenizerConfig:
    """SentencePiece: trained on the corpus' training split, or loaded from `path`."""

    path: Path = setting("", "A SentencePiece model to load. Empty: one is trained.")
    vocab_size: Annotated[int, Field(ge=SMALLEST_VOCABULARY)] = setting(32_000, "Pieces; <CALL> comes on top.")
    train_characters: Positive = setting(200_000_000, "The most characters that it is trained on.")


@dataclass(frozen=True, config=_STRICT)
class DataConfig:
    """Where prepared data lies, and in what order it is read."""

    directory: Path = setting("runs/data", "The folder of prepared data; what is missing is prepared there.")
    packed: Path = setting("", "A packed dataset made elsewhere, its TFDS version folder, in place of the corpus.")
    mixture: str = setting(
        "",
        "Several packed datasets in place of one, NAME:WEIGHTS:FOLDER,..., with weights that may change over the run "
        "(docs/mixtures.md).",
    )
    batch_size: Positive = setting(112, "Windows in a batch, over all devices.")
    shuffle: Shuffle = setting(
        "full",
        "full: all windows of an epoch; data in a bucket is copied here first. block: shard by shard; data in a bucket "
        "is streamed (docs/buckets.md).",
    )
    seed: Count = setting(0, "Seed of the order in which windows are read.")


@dataclass(frozen=True, config=_STRICT)
class ModelConfig:
    """Decoder: the defaults are GPT-2's, the alternatives Llama's."""

    layers: Positive = setting(18, "Layers.")
    width: Positive = setting(768, "Width of the hidden states.")
    heads: Positive = setting(12, "Heads of the attention.")
    head_width: Count = setting(0, "Width of a head. 0: the width divided by the heads.")
    kv_heads: Count = setting(0, "Heads of keys and values. 0: as many as heads.")
    mlp_width: Count = setting(0, "Width of the feed-forward layers. 0: four times the width.")
    context: Annotated[int, Field(ge=8, le=MOST_CONTEXT)] = setting(1024, "Tokens in a window.")
    positions: Literal["learned", "rope"] = setting("learned", "How a token's place is encoded: learned, or rotary.")
    norm: Literal["layernorm", "rmsnorm"] = setting("layernorm", "The normalization before each block.")
    activation: Literal["gelu", "swiglu"] = setting("gelu", "Activation of the feed-forward layers.")
    bias: bool = setting(True, "Whether linear layers and norms have biases.")
    qkv_bias: bool = setting(False, "Whether queries, keys and values have biases, other layers aside (Qwen2).")
    qk_norm: bool = setting(False, "Whether queries and keys are normalized within each head (Qwen3).")
    tied_embedding: bool = setting(True, "Whether the output matrix is the embedding.")
    norm_epsilon: Above0 = setting(1e-5, "Added to the variance in a norm.")
    rope_theta: Above0 = setting(10_000.0, "rope: base of the wavelengths.")
    rope_scaling: Literal["none", "linear", "llama3"] = setting(
        "none", "rope: how frequencies are changed in a model whose context was extended after training."
    )
    rope_factor: Annotated[float, Field(ge=1.0)] = setting(1.0, "The factor of rope_scaling.")
    rope_low_factor: Above0 = setting(1.0, "llama3: frequencies that turn less often than this are divided.")
    rope_high_factor: Above0 = setting(4.0, "llama3: frequencies that turn more often than this are kept.")
    rope_original_context: Positive = setting(8192, "llama3: the context before it was extended.")
    compute_dtype: ComputeDtype = setting("bfloat16", "Type of matrix products; parameters are float32.")
    layer_loop: Literal["auto", "scan", "unroll"] = setting(
        "auto", "scan compiles one layer once; unroll runs faster on CPUs and GPUs. auto: unroll on GPUs, else scan."
    )
    remat: Remat = setting("none", "What the backward pass computes again: nothing, all but matrix products, or all.")
    initial: Path = setting(
        "",
        "A pretrained model to start from: a checkpoint, a Hugging Face folder or a GGUF file. Its tokenizer and its "
        "settings are taken, except context, compute_dtype, layer_loop, remat, attention and attention_within.",
    )
    attention: AttentionName = setting(
        "auto", "Attention in training. auto: splash on TPUs, cudnn on NVIDIA GPUs, else xla (docs/tpu.md)."
    )
    attention_within: Literal["window", "document"] = setting(
        "window", "What a token sees in training: the window before it, or only its own document (docs/training.md)."
    )

    @property
    def head_size(self) -> int:
        """N, the width of a head."""
        return self.head_width or self.width // self.heads


@dataclass(frozen=True, config=_STRICT)
class ObjectiveConfig:
    """What is taken, how much of it, and what happens to it (paper section 2, docs/objective.md)."""

    rule: Rule = setting("factual_loss", "Which targets are taken.")
    rate: Share = setting(0.6, "How many are taken, as a share of the targets that rate_of names.")
    rate_of: RateOf = setting("factual", "The targets of which rate is a share.")
    rate_warmup_steps: Count = setting(0, "Steps in which the rate rises from 0.")
    treatment: Treatment = setting("call", "What taken targets teach: <CALL>, nothing, or (the others) both.")
    normalizer: Normalizer = setting("full", "The softmax of other targets: without <CALL> (the paper's) or with it.")
    joint_weight: NonNegative = setting(1.0, "joint: weight of the term for <CALL>.")
    partner_right: Share = setting(0.95, "mixture: how probable the partner makes the true token of a taken target.")
    call_cost: NonNegative = setting(0.1, "mixture: what p(<CALL>) = 1 costs at a target, in nats.")
    call_rate: Share = setting(0.0, "mixture: above 0, call_cost x (mean p(<CALL>) / call_rate)^2 is what it costs.")
    scope: Literal["batch", "microbatch"] = setting("batch", "The rule chooses over a batch or a microbatch.")
    vocab_chunks: Literal[1, 2, 4, 8, 16, 32, 64, 128] = setting(
        1, "Parts of the vocabulary; above 1 the head never holds all logits."
    )
    reference: Path = setting("", "excess_loss: the reference model's checkpoint.")
    partner_losses: PartnerLosses = setting("none", "stored: rules rank by what the partner saves (docs/objective.md).")

    @property
    def teaches_call(self) -> bool:
        """Whether a model that is trained by it learns `<CALL>`."""
        return self.rule != "none" and self.treatment != "ignore"


@dataclass(frozen=True, config=_STRICT)
class OptimizerConfig:
    """By default AdamW with linear warm-up and cosine decay, as LMLM (arXiv 2505.15962) sets it (docs/training.md)."""

    name: OptimizerName = setting(
        "adamw", "muon: Muon for the matrices of the blocks, AdamW for all else, with the same learning rate."
    )
    schedule: Schedule = setting(
        "cosine", "After the warm-up: cosine falls over the whole budget; wsd keeps the peak, and falls at the end."
    )
    decay_share: Share = setting(0.2, "wsd: share of the budget, its last part, in which the learning rate falls.")
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(
        0.0, "Decay of the moving average of the weights, which is what is validated and used. 0: no average."
    )
    learning_rate: Above0 = setting(5e-4, "The peak, after the warm-up.")
    final_share: Share = setting(0.1, "The learning rate at the end of the budget, as a share of the peak.")
    warmup_steps: Count = setting(2_000, "Steps in which the learning rate rises from 0.")
    b1: Share = setting(0.9, "Decay of the mean of gradients.")
    b2: Share = setting(0.95, "Decay of the mean of their squares.")
    epsilon: Above0 = setting(1e-8, "Added to the root of the mean of squares.")
    weight_decay: NonNegative = setting(0.1, "Weight decay of matrices; biases and norms have none.")
    clip_norm: NonNegative = setting(1.0, "Largest gradient norm; larger ones are scaled down. 0: no clipping.")


@dataclass(frozen=True, config=_STRICT)
class TrainingConfig:
    """How long, how often. Exactly one of the three budgets (steps, tokens, ground_truth_tokens) is above 0."""

    steps: Count = setting(0, "Budget in steps.")
    tokens: Count = setting(0, "Budget in targets read.")
    ground_truth_tokens: Count = setting(
        0, "Budget in targets that gave a ground-truth gradient: how the paper makes methods comparable."
    )
    seed: Count = setting(0, "Seed of the parameters and of the random rules.")
    microbatches: Positive = setting(1, "Parts that a batch is computed in, one after the other.")
    log_every: Positive = setting(50, "Steps between two records of metrics.jsonl.")
    evaluate_every: Positive = setting(1_000, "Steps between two validations.")
    evaluate_batches: Positive = setting(16, "Batches of a validation.")
    questions: Paths = setting("", "Files of multiple-choice questions, separated by commas (docs/measuring.md).")
    questions_every: Positive = setting(1_000, "Steps between two answers to them. The last step answers, too.")
    checkpoint_every: Positive = setting(1_000, "Steps between two checkpoints.")
    keep_checkpoints: Positive = setting(2, "How many of the newest checkpoints are kept.")
    keep_every: Count = setting(0, "Checkpoints of steps that this number divides are kept for ever. 0: none.")
    keep_best: BestBy = setting("none", "The checkpoint that is best by this number of its own validation is kept too.")
    trackers: str = setting("", "Who gets the records, too: wandb, mlflow, or both with a comma (docs/tracking.md).")
    checksums: bool = setting(True, "Whether checkpoints hold checksums of their arrays, which every reader compares.")
    skip_nonfinite: Count = setting(3, "How many steps in a row may be skipped as not finite; one more ends the run.")
    spike_deviations: NonNegative = setting(
        6.0, "A loss that many standard deviations above the mean of the last 100 is logged as a spike. 0: never."
    )
    hang_seconds: NonNegative = setting(
        600.0,
        "If a step takes longer, every thread's stack is printed; a step that compiles has three times that. 0: never.",
    )


@dataclass(frozen=True, config=_STRICT)
class MeshConfig:
    """Devices on each axis; one of the first four may be -1: all that are left (docs/distributed.md)."""

    data: int = setting(-1, "Groups that each compute a part of the batch.")
    fsdp: int = setting(1, "The same, with parameters and optimizer state split too.")
    tensor: int = setting(1, "Heads, feed-forward layers and vocabulary are split.")
    slice: int = setting(1, "Groups joined by a slower network: slices of TPUs, nodes of GPUs.")
    largest_replicated_mib: Positive = setting(
        16, "The most MiB that a device may hold of an array that fsdp or tensor could split but does not."
    )


@dataclass(frozen=True, config=_STRICT)
class CascadeConfig:
    """How a cascade of this model decodes: defaults of the report's samples, of `generate` and of `serve`."""

    partner: str = setting("documents", "Who answers calls, as in --partner (docs/partners.md).")
    policy: Policy = setting(
        "quantile",
        "quantile: the model calls at its highest scores, so the budget is spent. price: it calls where the score, a "
        "probability, is above price; the budget is the most that a long text spends.",
    )
    price: Share = setting(0.5, "price: the probability above which the model calls.")
    budget: Share = setting(0.22, "Share of the SLM's tokens to delegate.")
    window: Positive = setting(512, "How many of the last scores rank the next one.")
    score: ScoreSetting = setting(
        "auto",
        "The score that decides where the model calls. auto: the call score of a model that was trained to call, else "
        "its uncertainty (docs/cascade.md).",
    )
    start_token: str = setting(
        "auto",
        "What stands before a text. auto: what the model's tokenizer puts there, else what stood between documents in "
        "its training; none; or a control token by its name (docs/cascade.md).",
    )
    gate: Gate = setting("none", "factual: the score is weighed by how likely the next token is a fact.")
    account: Account = setting("row", "row: each text keeps to the budget. shared: only all texts together do.")
    span: Span = setting("phrase", "How far the partner writes at a call.")
    timeout: Above0 = setting(30.0, "Seconds that the partner has to answer.")
    max_new_tokens: Positive = setting(64, "Tokens to write at most.")
    samples: Count = setting(6, "Cascade samples in a run's report.")


@dataclass(frozen=True, config=_STRICT)
class Config:
    """A whole run."""

    name: str = setting("custom", "Name of the run; its folder and its report are named after it.")
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

    @property
    def method(self) -> str:
        """The entry of METHODS that the objective agrees with, or "custom" if there is none.

        A method is which targets are taken and what happens to them; the softmax belongs to it where an entry names
        one (lacy and lacy_full). How many are taken does not decide it, just as the learning rate does not.
        """
        for name, own in METHODS.items():
            defining = {"treatment": "call"} | {key: value for key, value in own.items() if key != "rate"}
            if all(getattr(self.objective, key) == value for key, value in defining.items()):
                return name
        return "custom"

    @property
    def workdir(self) -> str:
        """Where the run lies, unless somebody names another folder."""
        return f"runs/{self.name}-{self.method}"


def base_config() -> ml_collections.ConfigDict:
    """All settings at their defaults, for a config file to change."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()))
