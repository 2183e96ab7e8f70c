"""Small random models with real tokenizers, made once for all tests of the cascade."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import pytest

from lacy_jax.checkpoint import LoadedModel
from lacy_jax.config import Config, ModelConfig
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer
from lacy_jax.model import decoder

TEXTS = (
    "Albert Einstein was born in Ulm on 14 March 1879, and died in Princeton on 18 April 1955.",
    "The river Danube flows through ten countries: Germany, Austria, Slovakia, Hungary, Croatia and others.",
    "In 1,234.5 BC nobody wrote “naïve café” or Łódź; 東京 and 北京 are capitals, and so is Αθήνα.",
    "Smiles 😀 and families 👩‍👩‍👧 are written with several code points each, e.g. in U.S. letters.",
) * 3

STYLES = {
    "gpt2": ModelConfig(layers=2, width=32, heads=2, context=160, compute_dtype="float32"),
    "llama": ModelConfig(
        layers=2, width=32, heads=4, kv_heads=2, context=160, positions="rope", norm="rmsnorm",
        activation="swiglu", bias=False, tied_embedding=False, compute_dtype="float32",
    ),
}  # fmt: skip


@functools.cache
def tokenizer_of(size: int) -> Tokenizer:
    return Tokenizer.from_bytes(train_tokenizer(TEXTS, vocab_size=size))


@functools.cache
def random_model(
    style: str = "gpt2", *, context: int = 120, size: int = 400, seed: int = 0, scale: float = 8.0
) -> LoadedModel:
    """A model of random weights; `scale` makes its choices depend strongly on what it has read."""
    tokenizer = tokenizer_of(size)
    config = Config(model=dataclasses.replace(STYLES[style], context=context))
    vocab = decoder.padded_vocab(tokenizer.vocab_size)
    params = decoder.init_params(config.model, vocab=vocab, key=jax.random.key(seed))
    params = jax.tree.map(lambda x: x * scale if x.ndim > 1 else x, params)
    return LoadedModel(config=config, params=params, tokenizer=tokenizer, meta={"step": 0}, path="random")


@pytest.fixture(scope="session")
def model() -> Callable[..., LoadedModel]:
    return random_model


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
