"""A tagger as it lies on disk: tagger.json says what it is, weights.safetensors holds its arrays."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from lacy_jax.data.files import file_sha256, parse_json, write_whole
from lacy_jax.errors import DataError
from lacy_jax.folders import reading
from lacy_jax.tagging.network import Network

ABOUT_FILE, WEIGHTS_FILE = "tagger.json", "weights.safetensors"
FORMAT = 1
MOST_KINDS, MOST_WIDTH = 255, 4096


@dataclass(frozen=True)
class About:
    """What a tagger is.

    kinds: of the marks that it learned; class k + 1 of the network. language: of spaCy's tokenizer. repeats: whether
    those marks said which words are repeated. phrases: whether a mark could be longer than a word. learned: the
    fingerprint of the documents with those marks, and how far the tagger agreed with them on those held out.
    """

    kinds: tuple[str, ...]
    language: str
    repeats: bool
    phrases: bool
    width: int = 96
    format: int = FORMAT
    learned: dict[str, Any] = dataclasses.field(default_factory=dict)


def new_network(about: About, *, seed: int = 0, dropout: float = 0.0) -> Network:
    """A network of these kinds and this width, its weights drawn from a seed."""
    return Network(width=about.width, kinds=len(about.kinds) + 1, dropout=dropout, rngs=nnx.Rngs(seed))


def save_tagger(folder: Path, about: About, network: Network) -> None:
    """Writes both files; the description last."""
    arrays = {name: np.asarray(value) for name, value in _arrays(network).items()}
    write_whole(folder / WEIGHTS_FILE, save(arrays))
    sha256 = file_sha256(str(folder / WEIGHTS_FILE))
    write_whole(folder / ABOUT_FILE, json.dumps(dataclasses.asdict(about) | {"sha256": sha256}, indent=2).encode())


def read_about(folder: str) -> tuple[About, str]:
    """What a tagger is, and the sha256 of its weights. Raises `DataError` where the folder holds none."""
    path = Path(folder) / ABOUT_FILE
    if not path.is_file() or not (path.parent / WEIGHTS_FILE).is_file():
        raise DataError(f"{folder} holds no tagger; python -m lacy_jax.tagger makes one (docs/tagger.md)")
    with reading(path):
        content = path.read_bytes()
    try:
        found = parse_json(content)
        if (format := found["format"]) == FORMAT:  # another one may have other entries
            return _about(found), str(found["sha256"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} describes no tagger ({error}); make it anew") from None
    raise DataError(f"{path}: format {format!r} is not known to this version; it reads {FORMAT}")


def load_tagger(folder: str) -> tuple[About, Network]:
    """Opens a tagger.

    Raises:
        DataError: the folder holds none, or its weights are damaged.
    """
    about, sha256 = read_about(folder)
    path = Path(folder) / WEIGHTS_FILE
    damaged = DataError(f"{path} is damaged; copy it again, or make the tagger anew")
    if file_sha256(str(path)) != sha256:
        raise damaged
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise damaged from error
    network = new_network(about)
    places = {_name(path): (path, value) for path, value in nnx.to_flat_state(nnx.state(network, nnx.Param))}
    expected = {name: (value.shape, np.dtype(value.dtype)) for name, (_, value) in places.items()}
    if {name: (value.shape, value.dtype) for name, value in arrays.items()} != expected:
        raise damaged
    read = [(path, value.replace(jnp.asarray(arrays[name]))) for name, (path, value) in places.items()]
    nnx.update(network, nnx.from_flat_state(read))
    return about, network


def _about(found: dict[str, Any]) -> About:
    own = {name: value for name, value in found.items() if name != "sha256"}
    about = About(**{**own, "kinds": tuple(map(str, own["kinds"]))})
    types = (str, bool, bool, int, int, dict)
    values = (about.language, about.repeats, about.phrases, about.width, about.format, about.learned)
    right = all(type(value) is kind for value, kind in zip(values, types, strict=True))
    if not (right and 0 < len(about.kinds) <= MOST_KINDS and 0 < about.width <= MOST_WIDTH):
        raise ValueError("a wrong value")
    return about


def _arrays(network: Network) -> dict[str, Any]:
    return {_name(path): value[...] for path, value in nnx.to_flat_state(nnx.state(network, nnx.Param))}


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))
