"""lacy_jax: small language models that learn in pretraining what to predict and what to ask for.

An open implementation of LaCy (arXiv 2602.12005). Text passes through `data`, `model`, `objective`, `training`
and `cascade`, one folder per stage; docs/design.md is the map. docs/python.md goes from text to a cascade in ten lines.
With a finished run it takes three:

    slm = lacy_jax.load("runs/slm_tiny-lacy_full")
    cascade = lacy_jax.Cascade(slm, "documents", budget=0.22)
    print(cascade.generate(["Marie Curie was born in"])[0].text)
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacy_jax.api import prepare, train
    from lacy_jax.cascade import Cascade, Completion, Request, Sampling, make_partner
    from lacy_jax.checkpoints.export import export
    from lacy_jax.checkpoints.loading import load_model as load
    from lacy_jax.config import Config
    from lacy_jax.config_file import read_config
    from lacy_jax.errors import LacyError, PartnerError

__version__ = "0.1.0"
__all__ = ["Cascade", "Completion", "Config", "LacyError", "PartnerError", "Request", "Sampling", "export", "load"]
__all__ += ["make_partner", "prepare", "read_config", "train"]

# Where each name lies. It is imported on first use: `import lacy_jax` takes no time, and preparing data needs no JAX.
_HOMES = {
    **dict.fromkeys(("Cascade", "Completion", "Request", "Sampling", "make_partner"), "lacy_jax.cascade"),
    **dict.fromkeys(("LacyError", "PartnerError"), "lacy_jax.errors"),
    **dict.fromkeys(("prepare", "train"), "lacy_jax.api"),
    "Config": "lacy_jax.config",
    "export": "lacy_jax.checkpoints.export",
    "load": "lacy_jax.checkpoints.loading:load_model",
    "read_config": "lacy_jax.config_file",
}


def __getattr__(name: str) -> Any:
    """The names of `__all__`, imported on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, other_name = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), other_name or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """Keeps `lacy_jax.prepare` and `lacy_jax.export` functions when the programs of these names are imported:
    Python would set a submodule as an attribute of its package, in their place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
