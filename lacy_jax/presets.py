"""Named groups of settings, the config argument's: `--config=configs/slm_334m.py:method=loss,corpus=wikipedia`."""

from typing import Any

import ml_collections

from lacy_jax.errors import ConfigError

# Every method of the paper's comparison is a setting of the objective (docs/objective.md). With the default rate, 60%
# of the number of factual targets, each takes as many targets as LaCy does, on any corpus.
_LACY: dict[str, Any] = {
    "rule": "factual_loss",
    "rate": 0.6,
    "rate_of": "factual",
    "treatment": "call",
    "normalizer": "renormalized",
}
METHODS: dict[str, dict[str, Any]] = {
    "ntp": {"rule": "none"},
    "lacy": {"rule": "factual_loss"},
    "lacy_full": {"rule": "factual_loss", "normalizer": "full"},
    "loss": {"rule": "loss"},
    "rho": {"rule": "excess_loss"},
    "judge": {"rule": "judged_loss"},
    "ignore": {"rule": "factual_loss", "treatment": "ignore"},
    "ignore_facts": {"rule": "factual", "rate": 1.0, "treatment": "ignore"},
    "random": {"rule": "random"},
    "random_factual": {"rule": "random_factual"},
    "joint": {"rule": "factual_loss", "treatment": "joint"},
}
# `preset=paper`: what the paper does where our defaults differ, or may come to (docs/biographies.md).
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "objective": _LACY,
        "cascade": {"score": "call_score", "gate": "none", "span": "token", "budget": 0.22},
    },
}
CORPORA: dict[str, dict[str, Any]] = {
    "vital_articles": {"name": "vital_articles"},
    "jsonl": {"name": "jsonl"},
    "wikipedia": {"name": "tfds", "tfds_name": "wikipedia/20230601.en"},
    "biographies": {"name": "biographies"},
}


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Applies a config argument, `--config=configs/slm_334m.py:method=loss,corpus=wikipedia`.

    Raises:
        ConfigError: a key other than method, corpus or preset, or a value that is not in METHODS, CORPORA or PRESETS.
    """
    tables: dict[str, dict[str, Any]] = {"method": METHODS, "corpus": CORPORA, "preset": PRESETS}
    for item in filter(None, variant.split(",")):
        key, _, value = item.partition("=")
        if key not in tables:
            raise ConfigError(f"config argument {item!r}: allowed are {', '.join(f'{k}=...' for k in tables)}")
        if value not in tables[key]:
            raise ConfigError(f"config argument {key}={value!r}: allowed are {', '.join(tables[key])}")
        if key == "corpus":
            config.corpus.update(CORPORA[value])
        elif key == "method":
            config.objective.update(_LACY | METHODS[value])
            config.method = value
        else:
            config.method = "lacy"
            for section, settings in PRESETS[value].items():
                config[section].update(settings)
    return config
