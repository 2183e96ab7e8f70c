"""Picking tokens: against NumPy, and the same for a row whatever runs beside it."""

from collections.abc import Callable

import jax
import numpy as np
import pytest

from lacy_jax.cascade import Cascade, Request, Sampling
from lacy_jax.cascade.decoding.sampling import nucleus, pick, sampling_rows
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.errors import ConfigError

Model = Callable[..., LoadedModel]
DRAWS = 4000
picked = jax.jit(pick)


def frequencies(logits: np.ndarray, sampling: dict[str, float], seen: tuple[int, ...] = ()) -> np.ndarray:
    """Shares of the tokens over many positions of one row."""
    rows = [(Sampling(**sampling), seen, position) for position in range(DRAWS)]  # type: ignore[arg-type]
    tokens = picked(np.tile(logits, (DRAWS, 1)), sampling_rows(rows, length=4))
    return np.bincount(np.asarray(tokens), minlength=len(logits)) / DRAWS


def expected(
    logits: np.ndarray, *, temperature: float, top_p: float = 1.0, repetition_penalty: float = 1.0
) -> np.ndarray:
    """Probabilities after temperature, then the nucleus, written out."""
    logits = np.array(logits, np.float64)
    for token in (1, 2):
        logits[token] = logits[token] / repetition_penalty if logits[token] > 0 else logits[token] * repetition_penalty
    p = np.exp(logits / temperature)
    p /= p.sum()
    kept, mass = np.zeros_like(p), 0.0
    for token in np.argsort(-p):
        if mass >= top_p:
            break
        kept[token], mass = p[token], mass + p[token]
    return kept / kept.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.0},
        {"temperature": 0.5, "seed": 7},
        {"temperature": 2.0, "top_p": 0.7},
        {"temperature": 1.0, "top_p": 0.01},
        {"temperature": 1.0, "repetition_penalty": 1.5},
    ],
    ids=str,
)
def test_tokens_are_drawn_by_their_probability(rng: np.random.Generator, sampling: dict[str, float]) -> None:
    logits = rng.normal(size=8).astype(np.float32)
    logits[5] = -np.inf
    settings = {name: value for name, value in sampling.items() if name != "seed"}
    found = frequencies(logits, sampling, seen=(1, 2))
    # Five standard deviations of a share.
    np.testing.assert_allclose(found, expected(logits, **settings), atol=5 * 0.5 / DRAWS**0.5)
    assert found[5] == 0


def test_the_nucleus_is_that_of_a_sort(rng: np.random.Generator) -> None:
    logits = np.round(rng.normal(size=(400, 300)) * 3, 1).astype(np.float32)  # rounded: many are equal
    logits[:, 7] = -np.inf
    top_p = rng.uniform(0.01, 1.0, size=400).astype(np.float32)
    top_p[:20] = 1.0
    found = np.asarray(jax.jit(nucleus)(logits, top_p))
    p = np.exp(logits, dtype=np.float64)
    p /= p.sum(axis=1, keepdims=True)
    for row in range(400):
        above = np.array([p[row][p[row] > each].sum() for each in p[row]])
        kept = above < top_p[row]
        # Where a sum is top_p to rounding, either is right.
        clear = (np.abs(above - top_p[row]) > 1e-6) & np.isfinite(logits[row])
        np.testing.assert_array_equal(np.isfinite(found[row])[clear], kept[clear])
    assert np.isfinite(found[:20]).sum() == 20 * 299
    np.testing.assert_array_equal(found[np.isfinite(found)], logits[np.isfinite(found)])


def test_the_penalty_on_greedy_rows() -> None:
    logits = np.array([[1.0, 3.0, 2.9, -1.0], [1.0, 3.0, 2.9, -1.0], [-1.0, -1.1, -9.0, -9.0]], np.float32)
    penalised = Sampling(repetition_penalty=1.2)
    rows = [(Sampling(), (1,), 5), (penalised, (1,), 5), (penalised, (0,), 5)]
    assert picked(logits, sampling_rows(rows, length=3)).tolist() == [1, 2, 1]


def test_a_row_is_drawn_the_same_alone_and_among_others(model: Model) -> None:
    cascade = Cascade(model(), None)
    requests = [
        Request("Albert Einstein was", max_new_tokens=30, sampling=Sampling(temperature=1.0, seed=seed, top_p=0.9))
        for seed in (1, 2, 3, 2**40 + 1)
    ]
    together = cascade.generate([*requests, "The river"], max_new_tokens=30)
    alone = [cascade.generate([request])[0] for request in requests]
    assert [row.text for row in together[:4]] == [row.text for row in alone]
    assert len({row.text for row in alone[:3]}) == 3
    # A greedy neighbour is not disturbed either.
    assert together[4].text == cascade.generate(["The river"], max_new_tokens=30)[0].text


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": -1.0}, "temperature=-1"),
        ({"top_p": 0.0}, "top_p=0"),
        ({"repetition_penalty": 0.5}, "penalty=0.5"),
    ],
)
def test_what_is_refused(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Sampling(**settings)  # type: ignore[arg-type]
