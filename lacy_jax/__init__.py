"""lacy_jax: small language models that learn in pretraining what to predict and what to ask for.

An open implementation of LaCy (arXiv 2602.12005). Text flows down, one stage a room: `data`, `model`,
`objective`, `training`, `cascade`, `evals`; docs/design.md is the map. In three lines:

    slm = lacy_jax.load("runs/slm_tiny-lacy_full")
    cascade = lacy_jax.Cascade(slm, "documents", budget=0.22)
    print(cascade.generate(["Marie Curie was born in"])[0].text)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacy_jax.cascade import Cascade, Request, Sampling, make_partner
    from lacy_jax.checkpoints.loading import load_model as load

__version__ = "0.1.0"
__all__ = ["Cascade", "Request", "Sampling", "load", "make_partner"]


def __getattr__(name: str) -> Any:
    """Imported on first use: preparing data needs no JAX."""
    if name == "load":
        from lacy_jax.checkpoints.loading import load_model

        return load_model
    if name in __all__:
        from lacy_jax import cascade

        return getattr(cascade, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
