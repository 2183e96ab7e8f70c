"""Small random models with real tokenizers, made once for all tests of the cascade."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from lacy_jax.cascade.partners.guard import Clock
from lacy_jax.cascade.partners.http import HttpPartner
from lacy_jax.cascade.remote.address import Address
from lacy_jax.checkpoints.format import META_FILE, model_meta
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import Config, ModelConfig, Span
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer
from lacy_jax.model import decoder
from tests.cascade.http_server import Made, Server, serving

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


def random_params(config: ModelConfig, *, vocab: int, seed: int, scale: float) -> decoder.Params:
    """Weights from NumPy: nothing to compile."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: decoder.init_params(config, vocab=vocab, key=jax.random.key(0)))

    def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        constant = {"scale": 1.0, "bias": 0.0}.get(path[-1].key)
        values = rng.normal(size=leaf.shape) * 0.02 * scale if constant is None else np.full(leaf.shape, constant)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@functools.cache
def random_model(
    style: str = "gpt2", *, context: int = 120, size: int = 400, seed: int = 0, scale: float = 8.0
) -> LoadedModel:
    """A model of random weights; `scale` makes its choices depend strongly on what it has read."""
    tokenizer = tokenizer_of(size)
    config = Config(model=dataclasses.replace(STYLES[style], context=context))
    params = random_params(config.model, vocab=decoder.padded_vocab(tokenizer.vocab_size), seed=seed, scale=scale)
    return LoadedModel(config=config, params=params, tokenizer=tokenizer, path="random")


@pytest.fixture(scope="session")
def model() -> Callable[..., LoadedModel]:
    return random_model


def write_checkpoint(loaded: LoadedModel, folder: Path) -> Path:
    """An export, as checkpoint.py describes it."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "params", loaded.params)
    meta = model_meta(loaded.config, tokenizer=loaded.tokenizer, step=0, data=loaded.data)
    (folder / "meta").mkdir()
    (folder / META_FILE).write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random model with another tokenizer than the others'."""
    return write_checkpoint(random_model("llama", size=460, seed=7), tmp_path_factory.mktemp("checkpoint") / "export")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A completions server, which the http partner tries again soon; no key for it is in the environment."""
    for name in ("LACY_PARTNER_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("lacy_jax.cascade.remote.server.BACKOFF_SECONDS", 0.01)
    for name in ("LIST_SECONDS", "QUESTION_SECONDS"):  # a busy machine is no server that hangs
        monkeypatch.setattr(f"lacy_jax.cascade.partners.http.{name}", 60.0)
    with serving(Server()) as running:
        yield running


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the partner slept between tries, in seconds; it does not really sleep."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("lacy_jax.cascade.partners.http.asyncio.sleep", sleep)
    return slept


@pytest.fixture
def made(server: Server) -> Iterator[Made]:
    partners = []

    def make(
        span: Span = "word", *, url: str = "", timeout: float = 60.0, clock: Clock | None = None, **address: Any
    ) -> HttpPartner:
        where = Address(url or server.url, **address)
        partners.append(HttpPartner(where, span=span, timeout=timeout, clock=clock))
        return partners[-1]

    yield make
    for partner in partners:
        partner.close()
