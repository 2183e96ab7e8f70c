"""Every rule, treatment and normalizer against the float64 reference: values, gradients, counts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.objective import HeadScalars, head_scalars, nll_without_call, objective_sums, select_targets
from tests.objective import reference
from tests.objective.reference import Inputs, random_inputs

KEY = jax.random.key(7)


@functools.partial(jax.jit, static_argnames=("call_id", "chunks", "rule", "rate", "rate_of", "treatment", "normalizer"))
def run(hidden, embedding, batch, *, call_id, chunks, rule, rate, rate_of="factual", treatment, normalizer, **weights):
    targets, factual, valid, reference_losses = batch

    def loss(hidden, embedding):
        scalars = head_scalars(hidden, embedding, targets, call_id, vocab_chunks=chunks)
        taken = select_targets(
            nll_without_call(scalars),
            factual,
            valid,
            rule=rule,
            rate=rate,
            rate_of=rate_of,
            reference_losses=reference_losses,
            key=KEY,
        )
        sums = objective_sums(scalars, taken, valid, treatment=treatment, normalizer=normalizer, **weights)
        return sums.loss, (sums, taken, scalars)

    (_, aux), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, embedding)
    return (*aux, *gradients)


# As `objective_sums` has them.
WEIGHTS = {"joint_weight": 1.0, "partner_right": 0.95, "call_cost": 0.1}


def batch_of(inputs: Inputs) -> tuple[np.ndarray, ...]:
    return inputs.targets, inputs.factual, inputs.valid, inputs.reference_losses


def expected_taken(inputs: Inputs, *, rule: str, rate: float, rate_of: str = "factual") -> np.ndarray:
    losses = reference.nll_without_call(inputs.hidden, inputs.embedding, inputs.targets, inputs.call_id)
    factual, valid = inputs.factual & inputs.valid, inputs.valid
    match rule:
        case "none":
            return np.zeros_like(valid)
        case "factual":
            return factual
        case "excess_loss":
            losses = losses - inputs.reference_losses
        case "random" | "random_factual":
            losses = np.asarray(jax.random.uniform(KEY, losses.shape))
    candidates = factual if rule in ("factual_loss", "judged_loss", "random_factual") else valid
    return reference.select(losses, candidates, factual, valid, rate, rate_of)


def assert_matches(
    inputs: Inputs, *, chunks: int = 1, weights: dict[str, float | np.ndarray] = WEIGHTS, **method
) -> None:
    found = run(
        inputs.hidden,
        inputs.embedding,
        batch_of(inputs),
        call_id=inputs.call_id,
        chunks=chunks,
        **weights,
        **method,
    )
    sums, taken, _, d_hidden, d_embedding = jax.device_get(found)  # what follows is NumPy's, and compiles nothing
    treatment, normalizer = method.pop("treatment"), method.pop("normalizer")
    np.testing.assert_array_equal(taken, expected_taken(inputs, **method))
    expected = reference.objective(
        inputs.hidden,
        inputs.embedding,
        inputs.targets,
        np.asarray(taken),
        inputs.valid,
        call_id=inputs.call_id,
        treatment=treatment,
        normalizer=normalizer,
        **weights,
    )
    np.testing.assert_allclose(sums.loss, expected.losses.sum(), rtol=1e-5)
    counts = (int(sums.weight), int(sums.valid), int(sums.taken), int(sums.ground_truth))
    assert counts == (expected.weight, inputs.valid.sum(), taken.sum(), expected.ground_truth)
    # Relative to each token's own gradient, however small: a taken target at p(CALL) = 1 - 1e-12 has 1e-12.
    error = np.linalg.norm(d_hidden - expected.d_hidden, axis=-1)
    assert np.all(error <= 1e-5 * np.linalg.norm(expected.d_hidden, axis=-1))
    error = np.linalg.norm(d_embedding - expected.d_embedding, axis=-1)
    assert np.all(error <= 1e-5 * np.linalg.norm(expected.d_embedding, axis=-1).max())
    assert not np.any(d_embedding[inputs.call_id + 1 :])


# Every rule with the paper's setting, LaCy's and "all factual" with every setting, and one of each kind of control.
CASES = [(rule, "call", "renormalized") for rule in reference.RULES]
CASES += [(rule, *setting) for rule in ("factual_loss", "factual") for setting in reference.SETTINGS[1:]]
CASES += [("random", "joint", "renormalized"), ("none", "joint", "renormalized"), ("loss", "ignore", "full")]


@pytest.mark.parametrize(("seed", "case"), list(enumerate(CASES)))
def test_method_equals_reference_over_random_shapes(seed, case):
    rule, treatment, normalizer = case
    rng = np.random.default_rng(seed)
    chunks = int(rng.choice([1, 2, 4]))
    shape = {"batch": int(rng.integers(1, 5)), "time": int(rng.integers(1, 24)), "width": int(rng.integers(2, 20))}
    inputs = random_inputs(seed, **shape, vocab=chunks * int(rng.integers(12, 40)), padding=int(rng.integers(0, 5)))
    assert_matches(
        inputs,
        chunks=chunks,
        rule=rule,
        rate=float(rng.choice([0.0, 0.15, 0.6, 1.0])),
        rate_of=str(rng.choice(["factual", "valid"])),
        treatment=treatment,
        normalizer=normalizer,
        weights={
            "joint_weight": float(rng.uniform(0, 2)),
            "partner_right": float(rng.uniform(0, 1)),
            "call_cost": float(rng.uniform(0, 2)),
        },
    )


@pytest.mark.parametrize("weights", [{"partner_right": 0.0}, {"partner_right": 1.0}, {"call_cost": 0.0}], ids=str)
def test_mixture_at_the_ends_of_its_settings(weights):
    inputs = random_inputs(3, batch=2, time=9, width=8, vocab=32)
    method = {"rule": "factual_loss", "rate": 1.0, "treatment": "mixture", "normalizer": "full"}
    assert_matches(inputs, weights=WEIGHTS | weights, **method)


def test_mixture_with_a_partner_of_which_each_target_is_known():
    inputs = random_inputs(5, batch=2, time=9, width=8, vocab=32)
    right = np.random.default_rng(0).random(inputs.targets.shape).astype(np.float32)
    right[0, :4] = 0.0, 1.0, 1e-6, 0.5
    method = {"rule": "factual_loss", "rate": 1.0, "treatment": "mixture", "normalizer": "full"}
    assert_matches(inputs, weights=WEIGHTS | {"partner_right": right}, **method)


def test_what_the_model_does_not_know_is_called_where_its_price_is_met():
    """docs/objective.md: p(CALL) settles at 1/2 where a share 1/2 + call_cost / 4 of such targets is taken."""
    taken = np.arange(1000)[None] < 625

    def loss(call):
        scalars = HeadScalars(*(jnp.full(taken.shape, value) for value in (0.0, -60.0)), call=call)
        options = {"treatment": "mixture", "normalizer": "full", "call_cost": 0.5}
        return objective_sums(scalars, taken, np.ones_like(taken), **options).loss

    gradient = jax.jit(jax.grad(loss))(jnp.zeros(taken.shape))
    np.testing.assert_allclose(gradient.sum(), 0.0, atol=1e-3)
    assert np.all(gradient[:, :625] < 0)


def test_soft_asks_for_what_the_model_does_not_know():
    """A taken target pulls p(CALL) towards 1 - p(true token without CALL): there the gradient of the call is 0."""
    own = np.array([[0.01, 0.3, 0.7, 0.99]], np.float32)

    def loss(call):
        scalars = HeadScalars(lse=jnp.zeros(own.shape), target=jnp.log(own), call=call)
        return objective_sums(scalars, own > 0, own > 0, treatment="soft", normalizer="full").loss

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(np.log((1 - own) / own)), 0.0, atol=1e-6)


@pytest.mark.parametrize("share", ["no factual", "all factual", "no valid"])
@pytest.mark.parametrize(("treatment", "normalizer"), reference.SETTINGS)
def test_extreme_masks(share, treatment, normalizer):
    inputs = random_inputs(3, batch=2, time=9, width=8, vocab=32)
    inputs.factual[:] = share == "all factual"
    if share == "no valid":
        inputs.valid[:] = False
    assert_matches(inputs, rule="factual_loss", rate=1.0, treatment=treatment, normalizer=normalizer)


def test_nothing_taken_is_plain_cross_entropy():
    inputs = random_inputs(4, batch=3, time=16, width=8, vocab=40)
    method = {"rule": "none", "rate": 0.6, "normalizer": "renormalized", "chunks": 1}
    plain = reference.nll_without_call(inputs.hidden, inputs.embedding, inputs.targets, inputs.call_id)
    for treatment in ("call", "ignore"):
        sums, _, _, _, d_embedding = run(
            inputs.hidden, inputs.embedding, batch_of(inputs), call_id=inputs.call_id, treatment=treatment, **method
        )
        np.testing.assert_allclose(sums.loss / sums.weight, plain[inputs.valid].mean(), rtol=1e-6)
        assert not np.any(d_embedding[inputs.call_id])  # nothing pushes <CALL> down


@pytest.mark.parametrize(
    ("treatment", "normalizer", "chunks"),
    [("call", "renormalized", 1), ("call", "full", 4), ("ignore", "full", 1), ("joint", "renormalized", 4)],
)
def test_bfloat16_stays_in_its_band(treatment, normalizer, chunks):
    """The only roundings to bfloat16 (relative error u = 2^-9) are of the logits, of dz and of d_hidden.

    With Z the largest |logit| of a token, each logit is off by at most u Z. lse, a maximum's smooth cousin, moves
    by no more than its largest input: u Z. The call logit is float32. So an NLL of y moves by at most 2 u Z, and
    softplus(+-a), whose slope is at most 1, by u Z. Every softmax entry exp(z - lse) is off by a factor of at most
    exp(2 u Z), and dz = sum of softmaxes - onehots is then rounded once more. What this does to the gradients is a
    product with |embedding| or |hidden|. 1e-5 is float32's share.
    """
    u, joint_weight = 2.0**-9, 0.7
    inputs = random_inputs(5, batch=3, time=20, width=16, vocab=64)
    inputs.hidden[..., 0] = np.clip(inputs.hidden[..., 0], -20, 20)
    hidden, embedding = (jnp.asarray(x, jnp.bfloat16) for x in (inputs.hidden, inputs.embedding))
    inputs = dataclasses.replace(
        inputs, hidden=np.asarray(hidden, np.float32), embedding=np.asarray(embedding, np.float32)
    )
    method = {"treatment": treatment, "normalizer": normalizer, "joint_weight": joint_weight}
    sums, taken, scalars, d_hidden, d_embedding = run(
        hidden,
        inputs.embedding,
        batch_of(inputs),
        call_id=inputs.call_id,
        chunks=chunks,
        rule="factual_loss",
        rate=0.6,
        **method,
    )
    assert np.all(scalars.lse >= scalars.target - 1e-6)
    expected = reference.objective(
        inputs.hidden,
        inputs.embedding,
        inputs.targets,
        np.asarray(taken),
        inputs.valid,
        call_id=inputs.call_id,
        **method,
    )
    largest = np.abs(expected.logits).max(-1)
    band = (2 + joint_weight) * u * largest * inputs.valid
    assert abs(sums.loss - expected.losses.sum()) <= band.sum() + 1e-5 * expected.losses.sum()
    dz_band = np.expm1(2 * u * largest)[..., None] * expected.softmax_mass
    dz_band += u * (np.abs(expected.dz) + dz_band) + 1e-5
    hidden_band = np.einsum("btv,vd->btd", dz_band, np.abs(inputs.embedding))
    hidden_band += u * (np.abs(expected.d_hidden) + hidden_band)
    assert np.all(np.abs(np.asarray(d_hidden, np.float64) - expected.d_hidden) <= hidden_band)
    embedding_band = np.einsum("btv,btd->vd", dz_band, np.abs(inputs.hidden))
    assert np.all(np.abs(d_embedding - expected.d_embedding) <= embedding_band)
    # The band says something: it is narrower than the gradients themselves.
    assert np.median(embedding_band[: inputs.call_id]) < 0.5 * np.abs(expected.d_embedding).max()


@pytest.mark.parametrize(
    ("treatment", "normalizer"),
    [("call", "renormalized"), ("ignore", "full"), ("joint", "renormalized"), ("mixture", "full")],
)
def test_microbatches_with_unequal_masks_add_up_to_one_batch(treatment, normalizer):
    inputs = random_inputs(6, batch=4, time=12, width=8, vocab=32)
    inputs.valid[0, 2:] = False
    call = functools.partial(
        run,
        call_id=inputs.call_id,
        chunks=1,
        rule="factual",
        rate=1.0,
        treatment=treatment,
        normalizer=normalizer,
    )
    whole, _, _, d_hidden, d_embedding = call(inputs.hidden, inputs.embedding, batch_of(inputs))
    parts = [
        call(inputs.hidden[rows], inputs.embedding, tuple(x[rows] for x in batch_of(inputs)))
        for rows in (slice(0, 1), slice(1, 4))
    ]
    summed = jax.tree.map(jnp.add, parts[0][0], parts[1][0])
    np.testing.assert_allclose(summed.loss / summed.weight, whole.loss / whole.weight, rtol=1e-6)
    assert jax.tree.map(int, dataclasses.replace(summed, loss=0)) == jax.tree.map(
        int, dataclasses.replace(whole, loss=0)
    )
    np.testing.assert_allclose(np.concatenate([parts[0][3], parts[1][3]]), d_hidden, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(parts[0][4] + parts[1][4], d_embedding, rtol=1e-5, atol=1e-5)
