"""Settings: what is refused, in which words, and that every config file builds."""

import importlib.util
from pathlib import Path

import pytest

from lacy_jax import checks, presets
from lacy_jax import config as settings
from lacy_jax.errors import ConfigError
from lacy_jax.model.decoder import padded_vocab
from lacy_jax.training.flops import parameter_count

CONFIGS = Path(__file__).parent.parent / "configs"


def load(name: str, variant: str = "") -> settings.Config:
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return checks.parse(module.get_config(variant))


@pytest.mark.parametrize(
    ("name", "millions"), [("slm_tiny", 2.65), ("slm_150m", 153), ("slm_334m", 336), ("slm_1b", 1276)]
)
def test_every_config_builds_at_its_size(name: str, millions: float) -> None:
    config = load(name)
    assert config.name == name
    count = parameter_count(config.model, vocab=padded_vocab(config.tokenizer.vocab_size + 1))
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def test_every_config_file_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob("slm_*.py")} == {"slm_tiny", "slm_150m", "slm_334m", "slm_1b"}


@pytest.mark.parametrize("method", [name for name in presets.METHODS if name != "rho"])
def test_every_method_is_a_config_argument(method: str) -> None:
    config = load("slm_tiny", f"method={method},corpus=wikipedia")
    assert config.method == method
    assert config.corpus.name == "tfds"


def test_settings_survive_json() -> None:
    config = load("slm_334m", "method=joint")
    assert settings.config_from_dict(settings.config_to_dict(config)) == config


REFUSED = [
    ({"model": {"widht": 3}}, "config.model.widht: unknown setting; did you mean 'width'?"),
    ({"objective": {"rule": "best"}}, "config.objective.rule: got 'best'; input should be 'none', 'factual_loss'"),
    ({"objective": {"rate": 1.5}}, "config.objective.rate: got 1.5"),
    ({"training": {"steps": 3, "tokens": 4}}, "exactly one of steps, tokens, ground_truth_tokens"),
    ({"model": {"width": 30, "heads": 4}}, "config.model.heads: 4 does not divide config.model.width (30)"),
    ({"objective": {"rule": "excess_loss"}}, "config.objective.reference: rule excess_loss (Rho-1) needs"),
    ({"objective": {"reference": "x"}}, "config.objective.reference: only rule excess_loss reads one"),
    ({"objective": {"rule": "factual"}}, "config.objective.rate: rule factual takes all"),
    ({"objective": {"treatment": "joint", "normalizer": "full"}}, "config.objective.normalizer"),
    ({"corpus": {"name": "jsonl"}}, "config.corpus.files: corpus jsonl needs"),
    ({"annotate": {"annotator": "spans"}}, "config.annotate.spans_file: annotator spans needs"),
    ({"mesh": {"data": -1, "fsdp": -1}}, "config.mesh: at most one"),
    ({"mesh": {"data": 0}}, "config.mesh.data: got 0"),
    ({"objective": {"vocab_chunks": 3}}, "config.objective.vocab_chunks: got 3"),
    ({"cascade": {"timeout": 0.0}}, "config.cascade.timeout: got 0.0"),
    ({"data": {"batch_size": 10}, "training": {"steps": 1, "microbatches": 4}}, "config.training.microbatches: 4"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_bad_settings_are_refused_by_name(given: dict, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        checks.parse(given)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variant", ["method=best", "corpus=web", "size=3", "lacy"])
def test_unknown_config_arguments_are_refused_with_what_is_allowed(variant: str) -> None:
    with pytest.raises(ConfigError, match="allowed are"):
        load("slm_tiny", variant)


def test_the_papers_preset_is_the_papers() -> None:
    config = load("slm_tiny", "preset=paper")
    objective, cascade = config.objective, config.cascade
    assert (config.method, objective.rule, objective.rate, objective.rate_of) == (
        "lacy",
        "factual_loss",
        0.6,
        "factual",
    )
    assert (objective.treatment, objective.normalizer) == ("call", "renormalized")
    assert (cascade.score, cascade.gate, cascade.span, cascade.budget) == ("call_score", "none", "token", 0.22)


def test_the_recommended_settings_are_the_defaults() -> None:
    config = checks.parse(settings.base_config())
    assert config == checks.parse(presets.apply_variant(settings.base_config(), "method=lacy_full"))
    assert config.cascade.span == "phrase"
