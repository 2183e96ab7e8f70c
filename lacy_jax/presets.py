"""Named groups of settings, the config argument's: `--config=configs/slm_334m.py:method=loss,corpus=wikipedia`."""

from typing import Any

import ml_collections

from lacy_jax.errors import ConfigError, did_you_mean

# Every method of the paper's comparison is a setting of the objective (docs/objective.md). An entry says what makes the
# method; the rest is LaCy's. With the default rate, 60% of the number of factual targets, each takes as many targets as
# LaCy does, on any corpus.
_LACY: dict[str, Any] = {
    "partner_losses": "none",
    "rule": "factual_loss",
    "rate": 0.6,
    "rate_of": "factual",
    "treatment": "call",
    "normalizer": "renormalized",
}
METHODS: dict[str, dict[str, Any]] = {
    "ntp": {"rule": "none"},
    "lacy": {"rule": "factual_loss", "normalizer": "renormalized"},
    "gain": {"rule": "factual_loss", "normalizer": "full", "partner_losses": "stored"},
    "lacy_full": {"rule": "factual_loss", "normalizer": "full"},
    "loss": {"rule": "loss"},
    "rho": {"rule": "excess_loss"},
    "judge": {"rule": "judged_loss"},
    "ignore": {"rule": "factual_loss", "treatment": "ignore"},
    "ignore_facts": {"rule": "factual", "rate": 1.0, "treatment": "ignore"},
    "random": {"rule": "random"},
    "random_factual": {"rule": "random_factual"},
    "joint": {"rule": "factual_loss", "treatment": "joint"},
    # For marks that a partner made: --config.annotate.annotator=partner --config.rule.sub_tokens=first.
    "defer": {"rule": "factual", "rate": 1.0, "normalizer": "full"},
    "soft": {"rule": "factual", "rate": 1.0, "treatment": "soft", "normalizer": "full"},
    "mixture": {"rule": "factual", "rate": 1.0, "treatment": "mixture", "normalizer": "full"},
}
# paper: what the paper does where our defaults differ, or may come to (docs/biographies.md).
# defer: calls are learned where the partner answers rightly, and made where that is likelier than not (docs/defer.md).
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "objective": _LACY,
        "cascade": {"policy": "quantile", "score": "call_score", "gate": "none", "span": "token", "budget": 0.22},
    },
    "defer": {
        "annotate": {"annotator": "partner"},
        "rule": {"sub_tokens": "first"},
        "objective": _LACY | METHODS["defer"],
        "cascade": {"policy": "price", "price": 0.5, "span": "phrase"},
    },
}
CORPORA: dict[str, dict[str, Any]] = {
    "vital_articles": {"name": "vital_articles"},
    "jsonl": {"name": "jsonl"},
    "parquet": {"name": "parquet"},
    "text": {"name": "text"},
    "wikipedia": {"name": "tfds", "tfds_name": "wikipedia/20230601.en"},
    "biographies": {"name": "biographies"},
}
# The corpora of the closed world (docs/biographies_world.md); the second is for a study's arm.
CLOSED_WORLD = ("biographies", "biographies_told")
# What a config argument may name, in the order in which it is applied: a method changes what a preset gave.
ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "preset": PRESETS,
    "corpus": {name: {"corpus": settings} for name, settings in CORPORA.items()},
    "method": {name: {"objective": _LACY | own} for name, own in METHODS.items()},
}


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Applies a config argument, `--config=configs/slm_334m.py:method=loss,corpus=wikipedia`, in whatever order.

    Raises:
        ConfigError: all problems: a key that is not in ARGUMENTS or occurs twice, a value that is not listed there.
    """
    chosen: dict[str, str] = {}
    problems = []
    for item in filter(None, variant.split(",")):
        key, _, value = item.partition("=")
        if key not in ARGUMENTS:
            problems.append(f"config argument {item!r}: allowed are {', '.join(f'{name}=...' for name in ARGUMENTS)}")
        elif value not in ARGUMENTS[key]:
            known = ARGUMENTS[key]
            near = did_you_mean(value, known)
            problems.append(f"config argument {key}={value!r}: allowed are {', '.join(known)}{near}")
        elif key in chosen:
            problems.append(f"config argument {item!r}: {key}={chosen[key]} is given, too; give one")
        chosen[key] = value
    if problems:
        raise ConfigError(*problems)
    for key, known in ARGUMENTS.items():
        if key in chosen:
            for section, settings in known[chosen[key]].items():
                config[section].update(settings)
    return config
