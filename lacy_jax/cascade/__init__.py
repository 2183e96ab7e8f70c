"""An SLM that asks: decoding with a cache, a budget of calls, and the partners that answer them."""

from lacy_jax.cascade.cascade import Cascade, Completion, Counts, Piece
from lacy_jax.cascade.partners import Partner, PartnerError, make_partner

__all__ = ["Cascade", "Completion", "Counts", "Partner", "PartnerError", "Piece", "make_partner"]
