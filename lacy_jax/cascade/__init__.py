"""An SLM that asks: decoding with a cache, a budget of calls, and the partners that answer them."""

from lacy_jax.cascade.cascade import Cascade
from lacy_jax.cascade.decoding.sampling import Sampling
from lacy_jax.cascade.partners import Partner, make_partner
from lacy_jax.cascade.rows import Completion, Counts, Opening, Piece, Request
from lacy_jax.cascade.scheduler import Event, Scheduler
from lacy_jax.errors import PartnerError

__all__ = ["Cascade", "Completion", "Counts", "Event", "Opening", "Partner", "PartnerError", "Piece", "Request"]
__all__ += ["Sampling", "Scheduler", "make_partner"]
