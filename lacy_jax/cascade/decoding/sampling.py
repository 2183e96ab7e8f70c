"""How the next token is picked from the logits: greedy, or drawn, the same for a row whatever runs beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How a row's own tokens are picked. The defaults are greedy.

    temperature: 0 takes the best token; above it, logits are divided by it and a token is drawn.
    top_p: only the most likely tokens that together hold this probability are drawn from.
    seed: the draw at a position is a function of the seed and the position alone.
    repetition_penalty: logits of tokens that are in sight are divided by it where positive, else multiplied (CTRL,
        arXiv 1909.05858, section 4.1); 1 changes nothing, LMLM's protocol (arXiv 2505.15962) has 1.2.

    Raises:
        ConfigError: a value out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise ConfigError(f"temperature={self.temperature}: allowed is 0 (greedy) to 100")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p={self.top_p}: allowed is above 0, up to 1 (all tokens)")
        if not 1.0 <= self.repetition_penalty <= 10.0:
            raise ConfigError(f"repetition_penalty={self.repetition_penalty}: allowed is 1 (none) to 10")

    @property
    def plain(self) -> bool:
        """Whether the best token is taken as it is."""
        return self.temperature == 0.0 and self.repetition_penalty == 1.0


GREEDY = Sampling()
_BITS_OF_ONE = 0x3F800000  # float32 1.0


class SamplingRows(NamedTuple):
    """The settings of R rows and what they hold: NumPy on the host, arrays of the device inside `pick`."""

    temperature_R: Any
    top_p_R: Any
    penalty_R: Any
    seed_R: Any
    position_R: Any
    seen_RS: Any  # ids in sight, -1 where there is none


def sampling_rows(rows: Sequence[tuple[Sampling, Sequence[int], int]], *, length: int) -> SamplingRows:
    """(settings, ids in sight, position of the token to pick) of every row, as arrays; `length`: S."""
    seen_RS = np.full((len(rows), length), -1, np.int32)
    for row, (settings, ids, _) in enumerate(rows):
        if settings.repetition_penalty != 1.0:
            seen_RS[row, : len(ids)] = ids
    return SamplingRows(
        temperature_R=np.array([settings.temperature for settings, _, _ in rows], np.float32),
        top_p_R=np.array([settings.top_p for settings, _, _ in rows], np.float32),
        penalty_R=np.array([settings.repetition_penalty for settings, _, _ in rows], np.float32),
        seed_R=np.array([settings.seed % 2**32 for settings, _, _ in rows], np.uint32),
        position_R=np.array([position for _, _, position in rows], np.uint32),
        seen_RS=seen_RS,
    )


def pick(logits_RV: jax.Array, rows: SamplingRows) -> jax.Array:
    """The next token of every row, int32 [R]; -inf marks tokens that must not be picked."""
    logits_RV = _penalised(logits_RV, rows)
    best_R = best(logits_RV)
    cooled_RV = logits_RV / jnp.maximum(rows.temperature_R, 1e-4)[:, None]
    cut = jnp.any(rows.top_p_R < 1.0)
    kept_RV = jax.lax.cond(cut, nucleus, lambda logits_RV, _: logits_RV, cooled_RV, rows.top_p_R)

    def noise(seed: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), position), logits_RV.shape[1:])

    drawn_R = best(kept_RV + jax.vmap(noise)(rows.seed_R, rows.position_R))
    return jnp.where(rows.temperature_R > 0, drawn_R, best_R)


def best(logits_RV: jax.Array) -> jax.Array:
    """The token of the highest logit, of equal ones the first, int32 [R]; two plain reductions, for speed on CPUs."""
    vocab = logits_RV.shape[1]
    is_top_RV = logits_RV == jnp.max(logits_RV, axis=-1, keepdims=True)
    first_R = jnp.min(jnp.where(is_top_RV, jnp.arange(vocab, dtype=jnp.int32), vocab), axis=-1)
    return jnp.where(first_R == vocab, 0, first_R)  # NaN is not even equal to itself


def _penalised(logits_RV: jax.Array, rows: SamplingRows) -> jax.Array:
    seen_RV = jax.vmap(lambda out, ids: out.at[ids].set(True, mode="drop"))(
        # Negative ids would count from the end: send them beyond it.
        jnp.zeros(logits_RV.shape, bool),
        jnp.where(rows.seen_RS < 0, logits_RV.shape[1], rows.seen_RS),
    )
    penalty = rows.penalty_R[:, None]
    return jnp.where(seen_RV, jnp.where(logits_RV > 0, logits_RV / penalty, logits_RV * penalty), logits_RV)


def nucleus(logits_RV: jax.Array, top_p_R: jax.Array) -> jax.Array:
    """Logits, -inf beyond the most likely tokens: one is kept where those above it hold less than `top_p`.

    Without a sort, which takes most of a step's time on CPUs: the bits of positive floats are in the floats' order, so
    the least probability that is kept is found by halving the numbers from 0 to 1.
    """
    probabilities_RV = jax.nn.softmax(logits_RV, axis=-1)
    bits_RV = jax.lax.bitcast_convert_type(probabilities_RV, jnp.int32)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        below_R, kept_R = bounds
        middle_R = below_R + (kept_R - below_R) // 2
        above_R = jnp.sum(jnp.where(bits_RV > middle_R[:, None], probabilities_RV, 0.0), axis=-1)
        keeps_R = above_R < top_p_R
        return jnp.where(keeps_R, below_R, middle_R), jnp.where(keeps_R, middle_R, kept_R)

    start = jnp.full_like(bits_RV[:, 0], -1), jnp.full_like(bits_RV[:, 0], _BITS_OF_ONE)
    _, least_R = jax.lax.fori_loop(0, _BITS_OF_ONE.bit_length(), halve, start)
    kept_RV = (bits_RV >= least_R[:, None]) | (top_p_R >= 1.0)[:, None]
    return jnp.where(kept_RV, logits_RV, -jnp.inf)
