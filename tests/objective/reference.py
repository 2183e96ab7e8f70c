"""The objective again, in float64 NumPy and from the paper's wording: full softmaxes, sorting, loops."""

from dataclasses import dataclass
from typing import Any

import numpy as np

RULES = ("none", "factual_loss", "loss", "excess_loss", "judged_loss", "factual", "random", "random_factual")
SETTINGS = (
    ("call", "renormalized"),
    ("call", "full"),
    ("ignore", "renormalized"),
    ("ignore", "full"),
    ("joint", "renormalized"),
    ("soft", "full"),
    ("mixture", "full"),
)


@dataclass
class Reference:
    """Sums, gradients of the loss sum, and what a bound on rounding errors needs."""

    losses: np.ndarray  # [B, T], 0 where nothing counts
    weight: int
    ground_truth: int
    dz: np.ndarray  # [B, T, V]
    softmax_mass: np.ndarray  # [B, T, V], the softmaxes in dz, with their coefficients' magnitudes
    logits: np.ndarray  # [B, T, V]
    d_hidden: np.ndarray
    d_embedding: np.ndarray


def select(
    scores: np.ndarray, candidates: np.ndarray, factual: np.ndarray, valid: np.ndarray, rate: float, rate_of: str
) -> np.ndarray:
    """Sorts (score, place) pairs and takes the first k."""
    count = np.sum(factual & valid) if rate_of == "factual" else np.sum(valid)
    k = int(np.rint(np.float32(rate) * np.float32(count)))
    order = [(-float(scores[i]), i) for i in np.ndindex(scores.shape) if candidates[i] and not np.isnan(scores[i])]
    taken = np.zeros(scores.shape, bool)
    for _, place in sorted(order)[:k]:
        taken[place] = True
    return taken


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def less_onehot(softmax: np.ndarray, index: int) -> np.ndarray:
    """softmax - onehot(index); the difference 1 - p as a sum, since p = 1 - 1e-12 leaves few digits of it."""
    gradient = softmax.copy()
    gradient[index] = -np.delete(softmax, index).sum()
    return gradient


def nll_without_call(hidden: np.ndarray, embedding: np.ndarray, targets: np.ndarray, call_id: int) -> np.ndarray:
    logits = np.einsum("btd,vd->btv", hidden.astype(np.float64), embedding.astype(np.float64))
    return -np.take_along_axis(log_softmax(logits[..., :call_id]), targets[..., None], -1)[..., 0]


def objective(
    hidden: np.ndarray,
    embedding: np.ndarray,
    targets: np.ndarray,
    taken: np.ndarray,
    valid: np.ndarray,
    *,
    call_id: int,
    treatment: str,
    normalizer: str,
    joint_weight: float = 1.0,
    partner_right: float | np.ndarray = 0.95,
    call_cost: float = 0.1,
) -> Reference:
    """Loss of each target as a combination of log-probabilities, and its gradient by the softmaxes themselves."""
    hidden, embedding = hidden.astype(np.float64), embedding.astype(np.float64)
    logits = np.einsum("btd,vd->btv", hidden, embedding)
    log_full = np.full(logits.shape, -np.inf)
    log_full[..., : call_id + 1] = log_softmax(logits[..., : call_id + 1])
    log_rest = np.full(logits.shape, -np.inf)
    log_rest[..., :call_id] = log_softmax(logits[..., :call_id])
    full, rest = np.exp(log_full), np.exp(log_rest)
    losses, dz, mass = np.zeros(targets.shape), np.zeros(logits.shape), np.zeros(logits.shape)
    ground_truth, weight, rights = 0, 0, partner_right * taken.astype(np.float64)
    for place in zip(*np.nonzero(valid), strict=True):
        nll_rest = (-log_rest[place][targets[place]], less_onehot(rest[place], targets[place]), rest[place])
        nll_full = (-log_full[place][targets[place]], less_onehot(full[place], targets[place]), full[place])
        nll_call = (-log_full[place][call_id], less_onehot(full[place], call_id), full[place])
        # -log(1 - p(CALL)), as the sum over everything else
        others = log_full[place][:call_id]
        no_call = -(others.max() + np.log(np.exp(others - others.max()).sum()))
        nll_no_call = (no_call, full[place] - rest[place], full[place] + rest[place])
        terms: list[Any] = []
        if treatment == "joint":
            side = nll_call if taken[place] else nll_no_call
            terms = [nll_rest, tuple(joint_weight * part for part in side)]
        elif treatment == "soft" and taken[place]:
            right, wrong = rest[place][targets[place]], np.delete(rest[place], targets[place]).sum()
            terms = [tuple(right * part for part in nll_full), tuple(wrong * part for part in nll_call)]
        elif treatment == "mixture":
            terms = either_way(nll_full, nll_call, partner_right=rights[place], call_cost=call_cost)
        elif not taken[place]:
            terms = [nll_full if normalizer == "full" else nll_rest]
        elif treatment == "call":
            terms = [nll_call]
        weight += bool(terms)
        ground_truth += treatment in ("joint", "soft", "mixture") or not taken[place]
        for loss, gradient, softmaxes in terms:
            losses[place] += loss
            dz[place] += gradient
            mass[place] += softmaxes
    return Reference(
        losses=losses,
        weight=weight,
        ground_truth=ground_truth,
        dz=dz,
        softmax_mass=mass,
        logits=logits[..., : call_id + 1],
        d_hidden=np.einsum("btv,vd->btd", dz, embedding),
        d_embedding=np.einsum("btv,btd->vd", dz, hidden),
    )


Term = tuple[float, np.ndarray, np.ndarray]  # loss, its gradient by the logits, the softmaxes in that


def either_way(nll_own: Term, nll_call: Term, *, partner_right: float, call_cost: float) -> list[Term]:
    """-log of the token's probability, by the SLM (own) or by the partner, and the price of a call.

    Products of plain probabilities, where d p = -p d(-log p); float64 has digits enough.
    """
    own, called = np.exp(-nll_own[0]), np.exp(-nll_call[0])
    by_partner = called * partner_right
    token = own + by_partner
    gradient, mass = ((own * nll_own[part] + by_partner * nll_call[part]) / token for part in (1, 2))
    price = call_cost * called
    return [(-np.log(token), gradient, mass), (price, -price * nll_call[1], price * nll_call[2])]


@dataclass
class Inputs:
    """One random batch with its output matrix."""

    hidden: np.ndarray
    embedding: np.ndarray
    targets: np.ndarray
    factual: np.ndarray
    valid: np.ndarray
    reference_losses: np.ndarray
    call_id: int


def random_inputs(seed: int, *, batch: int, time: int, width: int, vocab: int, padding: int = 5) -> Inputs:
    """Random shapes' worth of data with p(CALL) log-uniform from 1e-12 to 1 - 1e-12.

    Width 0 belongs to <CALL>: it alone decides its logit. The padding rows of the matrix are large, so that
    a leak of one of them shows. The last row of the batch is all padding, where there are several.
    """
    rng = np.random.default_rng(seed)
    call_id = vocab - padding - 1
    hidden = rng.normal(size=(batch, time, width))
    embedding = rng.normal(size=(vocab, width))
    embedding[:, 0] = 0
    embedding[call_id] = np.eye(width)[0]
    embedding[call_id + 1 :] = 30
    rest = np.einsum("btd,vd->btv", hidden, embedding)[..., :call_id]
    lse = rest.max(-1) + np.log(np.exp(rest - rest.max(-1, keepdims=True)).sum(-1))
    odds = rng.uniform(np.log(1e-12), 0, size=lse.shape)
    hidden[..., 0] = lse + np.where(rng.random(lse.shape) < 0.5, 1, -1) * (odds - np.log1p(-np.exp(odds)))
    valid = np.arange(time)[None] < rng.integers(1, time + 1, size=(batch, 1))
    valid[-1] &= batch == 1
    return Inputs(
        hidden=hidden.astype(np.float32),
        embedding=embedding.astype(np.float32),
        targets=rng.integers(0, call_id, size=(batch, time)).astype(np.int32),
        factual=rng.random((batch, time)) < 0.4,
        valid=valid,
        reference_losses=rng.normal(5, 3, size=(batch, time)).astype(np.float32),
        call_id=call_id,
    )
