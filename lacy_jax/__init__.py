"""lacy_jax: small language models that learn in pretraining what to predict and what to ask for.

An open implementation of LaCy (arXiv 2602.12005). Text flows down, one stage a room: `data`, `model`,
`objective`, `training`, `cascade`, `evals`; docs/design.md is the map.
"""

__version__ = "0.1.0"
