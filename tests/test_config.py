"""Settings: what is refused, in which words, and that every config file builds."""

import dataclasses
import importlib.util
import itertools
from pathlib import Path

import pytest

from lacy_jax import checks, presets
from lacy_jax import config as settings
from lacy_jax.config_dict import config_from_dict, config_to_dict
from lacy_jax.config_file import read_config
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
    assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize(
    ("variant", "changes", "method"),
    [
        ("", {}, "lacy_full"),
        ("", {"rule": "loss"}, "loss"),
        ("method=lacy", {"rule": "loss"}, "loss"),
        ("method=lacy", {"rate": 0.3, "rate_of": "valid"}, "lacy"),
        ("method=lacy", {"normalizer": "full"}, "lacy_full"),
        ("method=lacy_full", {"rule": "none"}, "ntp"),
        ("method=random_factual", {"normalizer": "full"}, "random_factual"),
        ("method=loss", {"treatment": "ignore"}, "custom"),
        ("method=ignore_facts", {"treatment": "call"}, "custom"),
    ],
)
def test_the_method_follows_from_the_objective(variant: str, changes: dict, method: str) -> None:
    config = load("slm_tiny", variant)
    objective = dataclasses.asdict(config.objective) | changes
    assert checks.parse(config_to_dict(config) | {"objective": objective, "method": ""}).method == method


def test_a_method_that_the_objective_is_not_is_refused_at_the_door_and_read_in_a_checkpoint() -> None:
    given = config_to_dict(load("slm_tiny"))
    assert given["method"] == "lacy_full"
    assert checks.parse(given).method == "lacy_full"  # a config file that says what is true
    given["method"] = "joint"
    with pytest.raises(
        ConfigError,
        match=r"config\.method: got 'joint'.* 'lacy_full'; .* write --config=FILE\.py:method=joint",
    ):
        checks.parse(given)
    assert config_from_dict(given).method == "lacy_full"


@pytest.mark.parametrize(
    ("name", "workdir"),
    [
        ("slm_tiny", "runs/slm_tiny-lacy_full"),
        ("slm_150m", "runs/slm_150m-lacy_full"),
        ("slm_334m", "runs/slm_334m-lacy_full"),
        ("slm_1b", "runs/slm_1b-lacy_full"),
        ("biographies", "runs/biographies-lacy_full"),
    ],
)
def test_runs_lie_where_they_lay(name: str, workdir: str) -> None:
    """The folders of commit 60e64f2, so that the same command goes on with a run of then."""
    assert load(name).workdir == workdir


def test_a_changed_rule_changes_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    assert read_config("configs/slm_tiny.py", {"objective.rule": "loss"}).workdir == "runs/slm_tiny-loss"


# What is wrong -> words of the one line about it.
REFUSED = [
    ({"model": {"widht": 3}}, "config.model.widht: unknown setting; allowed are layers, width"),
    ({"model": {"widht": 3}}, "did you mean width?"),
    ({"modle": {"width": 3}}, "config.modle: unknown setting; allowed are name, corpus"),
    ({"objective": {"rule": "best"}}, "config.objective.rule: got 'best'; input should be 'none', 'factual_loss'"),
    ({"objective": {"rate": 1.5}}, "config.objective.rate: got 1.5"),
    ({"cascade": {"budget": 22}}, "config.cascade.budget: got 22; input should be less than or equal to 1; write 0.22"),
    ({"training": {"steps": 3, "tokens": 4}}, "exactly one of steps, tokens, ground_truth_tokens"),
    (
        {"training": {"steps": 3, "tokens": 4}},
        "add --config.training.tokens=0 to go by steps, or --config.training.steps=0",
    ),
    ({"training": {}}, "add --config.training.steps="),
    ({"model": {"width": 30, "heads": 4}}, "config.model.heads: 4 does not divide config.model.width (30)"),
    ({"objective": {"rule": "excess_loss"}}, "add --config.objective.reference="),
    ({"cascade": {"score": "expected_saving"}}, "a run does not learn what its partner saves"),
    ({"objective": {"reference": "x"}}, "config.objective.reference: only config.objective.rule=excess_loss reads one"),
    ({"objective": {"rule": "factual"}}, "add --config.objective.rate=1"),
    ({"objective": {"call_rate": 0.1}}, "add --config.objective.call_rate=0"),
    ({"objective": {"call_rate": 0.1, "treatment": "mixture", "call_cost": 0}}, "with a call_cost above 0"),
    (
        {"objective": {"call_rate": 0.1, "treatment": "mixture"}, "training": {"steps": 1, "microbatches": 2}},
        "add --config.training.microbatches=1, or --config.objective.scope=microbatch",
    ),
    ({"objective": {"rule": "none", "partner_losses": "stored"}}, "add --config.objective.partner_losses=none"),
    (
        {"objective": {"rule": "excess_loss", "reference": "x", "treatment": "mixture", "partner_losses": "stored"}},
        "add --config.objective.partner_losses=none",
    ),
    ({"objective": {"treatment": "joint", "normalizer": "full"}}, "add --config.objective.normalizer=renormalized"),
    ({"objective": {"treatment": "soft", "normalizer": "renormalized"}}, "add --config.objective.normalizer=full"),
    ({"corpus": {"name": "jsonl"}}, "add --config.corpus.files="),
    ({"annotate": {"annotator": "oracle"}}, "add --config.annotate.annotator=spacy"),
    ({"cascade": {"partner": "world:known=0.9"}}, "add --config.cascade.partner=documents"),
    ({"annotate": {"annotator": "partner", "partner": "world"}}, "add --config.annotate.partner=documents"),
    ({"annotate": {"annotator": "spans"}}, "add --config.annotate.spans_file="),
    ({"mesh": {"data": -1, "fsdp": -1}}, "config.mesh: at most one axis can be -1"),
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


def test_all_problems_are_named_at_once_and_no_others() -> None:
    given = {
        "model": {"width": 30, "heads": 4, "depth": 2},
        "training": {"steps": -1},  # and so nothing is said about how many budgets are set
        "corpus": {"name": "jsonl"},
        "cascade": {"budget": 22},
    }
    with pytest.raises(ConfigError) as error:
        checks.parse(given, check=lambda config: [f"{config.corpus.name}: further"])
    found = {problem.partition(":")[0] for problem in error.value.problems}
    assert found == {
        "config.model.depth",
        "config.training.steps",
        "config.cascade.budget",
        "config.model.heads",
        "config.corpus.files",
        "jsonl",
    }


def test_a_budget_in_percent_is_explained_where_a_flag_gives_it() -> None:
    with pytest.raises(ConfigError, match=r"^budget=22: .* write 0\.22 for 22%$"):
        checks.change_cascade(settings.CascadeConfig(), {"budget": 22})


@pytest.mark.parametrize("variant", ["method=best", "corpus=web", "size=3", "lacy"])
def test_unknown_config_arguments_are_refused_with_what_is_allowed(variant: str) -> None:
    with pytest.raises(ConfigError, match="allowed are"):
        load("slm_tiny", variant)


def test_config_arguments_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        load("slm_tiny", "method=lacy_ful,size=3,corpus=jsonl,corpus=jsonl")
    assert [problem[:23] for problem in error.value.problems] == [
        "config argument method=",
        "config argument 'size=3",
        "config argument 'corpus",
    ]
    assert "did you mean lacy_full?" in error.value.problems[0]


@pytest.mark.parametrize(
    "arguments", [("preset=paper", "method=loss"), ("corpus=wikipedia", "method=joint", "preset=paper")]
)
def test_the_order_of_config_arguments_does_not_matter(arguments: tuple[str, ...]) -> None:
    found = [load("slm_tiny", ",".join(order)) for order in itertools.permutations(arguments)]
    assert all(config == found[0] for config in found)
    assert found[0].method in ("loss", "joint")
    assert found[0].cascade.span == "token"  # the preset's


def test_the_preset_defer_learns_from_the_partners_answers_and_calls_at_a_price() -> None:
    config = load("slm_tiny", "preset=defer")
    assert (config.annotate.annotator, config.annotate.partner) == ("partner", "documents")
    assert (config.rule.sub_tokens, config.method) == ("first", "defer")
    assert (config.objective.rate, config.objective.normalizer, config.objective.treatment) == (1.0, "full", "call")
    assert (config.cascade.policy, config.cascade.price, config.cascade.span) == ("price", 0.5, "phrase")


def test_the_papers_preset_is_the_papers() -> None:
    config = load("slm_tiny", "preset=paper")
    objective, cascade = config.objective, config.cascade
    assert config.method == "lacy"
    assert (objective.rule, objective.rate, objective.rate_of) == ("factual_loss", 0.6, "factual")
    assert (objective.treatment, objective.normalizer) == ("call", "renormalized")
    assert (cascade.score, cascade.gate, cascade.span, cascade.budget) == ("call_score", "none", "token", 0.22)


def test_the_recommended_settings_are_the_defaults() -> None:
    config = checks.parse(settings.base_config())
    assert config == checks.parse(presets.apply_variant(settings.base_config(), "method=lacy_full"))
    assert config.cascade.span == "phrase"
