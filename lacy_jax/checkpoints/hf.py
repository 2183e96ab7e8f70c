"""Models in Hugging Face's terms as our decoder: config.json and tensors by name, of the families in family.py.

The tensors come from a folder's safetensors, or from any other `TensorSource` (gguf_file.py).

A tensor of one layer becomes a slice of our stacked one, and only the stacked one being filled is held beside those
that are done. Nothing is downloaded, and PyTorch is not needed.
"""

import math
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import safetensors
from flax import traverse_util

from lacy_jax.checkpoints.family import FAMILIES, Transform
from lacy_jax.checks import parse
from lacy_jax.config import ModelConfig, ParamsDtype
from lacy_jax.data.files import parse_json
from lacy_jax.errors import CheckpointError, ConfigError
from lacy_jax.model import decoder

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Llama 3.2 says 131,072, of which a cascade's texts use little; the cache grows with what is used, up to here.
MAX_CONTEXT = 4096


# Sizes that are wrong by no more than this are left to more precise messages.
_FEW_LAYERS, _FEW_NUMBERS = 1_000, 1 << 20
_SHARD = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Ours with a row for every token.
_BY_TOKEN = ("embedding/embedding", "output/embedding")
# In some files, and no parameters: causal masks, rotary frequencies.
_NO_PARAMETERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def read_settings(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        CheckpointError: it cannot be read, or describes a model of another kind.
    """
    try:
        settings: dict[str, Any] = parse_json((folder / CONFIG_FILE).read_bytes())
        kind = settings.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"cannot read {folder / CONFIG_FILE}: {error}") from None
    try:
        family = FAMILIES.load(str(kind))
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    for field, allowed in family.SUPPORTED.items():
        if settings.get(field, allowed[0]) not in allowed:
            raise CheckpointError(f"{folder}: {field} {settings[field]!r} is not supported; it must be {allowed[0]!r}")
    return settings


def model_config(settings: Mapping[str, Any], *, max_context: int = MAX_CONTEXT) -> ModelConfig:
    """The decoder that config.json describes, its context at most `max_context` tokens.

    Raises:
        CheckpointError: a setting that is missing, or not supported.
    """
    try:
        model = FAMILIES.load(settings["model_type"]).model_settings(settings)
        model["context"] = min(model["context"], max_context)
        return parse({"model": model}).model
    except KeyError as error:
        raise CheckpointError(f"{CONFIG_FILE} has no {error}") from None
    except ConfigError as error:
        problems = "; ".join(error.problems)
        raise CheckpointError(f"{CONFIG_FILE} describes no model that can be built here: {problems}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{CONFIG_FILE} describes no model that can be built here: {error}") from None


class TensorSource(Protocol):
    """Tensors by the names of Hugging Face's modules, without the whole model's prefix.

    where: the file or folder, for messages. count: how many there are. numbers: how many they hold together, known to
    be in the file. `read` gives one, `dtype` says in which type; both raise `CheckpointError`. `refuse_others` raises
    it where there are tensors of other names: the model is built in another way.
    """

    where: Path

    @property
    def count(self) -> int: ...

    @property
    def numbers(self) -> int: ...

    def read(self, name: str) -> np.ndarray: ...

    def dtype(self, name: str) -> str: ...

    def refuse_others(self, names: set[str]) -> None: ...


def read_params(
    tensors: TensorSource,
    settings: Mapping[str, Any],
    *,
    config: ModelConfig,
    tokens: int,
    dtype: ParamsDtype = "stored",
) -> decoder.Params:
    """A model's weights as the decoder's parameters, on this process' first device.

    Args:
        config: what `model_config` made of `settings`.
        tokens: real tokens, N. The embedding has the rows of these, and zeros up to `padded_vocab(N + 1)`.
        dtype: of the parameters; "stored": as in the file, which for bfloat16 halves the memory of float32.

    Raises:
        CheckpointError: a file or a tensor that is missing, left over, or of an unexpected shape or type.
    """
    known = settings.get("vocab_size")
    if not isinstance(known, int) or tokens > known:
        raise CheckpointError(
            f"{tensors.where}: the tokenizer has {tokens} tokens, the model only {known} (vocab_size)"
        )
    parts = FAMILIES.load(settings["model_type"]).parts(config)
    params: dict[str, jax.Array] = {}
    shapes = _shapes(tensors, config=config, tokens=tokens)
    tensors.refuse_others({name.format(n) for name, _ in parts.values() for n in range(config.layers)})
    for path, shape in traverse_util.flatten_dict(shapes, sep="/").items():
        array = _filled(tensors, parts[path], path=path, shape=shape.shape, tokens=tokens)
        array = array if dtype == "stored" else array.astype(dtype)
        params[path] = jax.device_put(array, jax.local_devices()[0])
    nested: decoder.Params = traverse_util.unflatten_dict(params, sep="/")
    return nested


def _shapes(tensors: TensorSource, *, config: ModelConfig, tokens: int) -> dict[str, Any]:
    """The shapes of our parameters, once it is known that the files hold as many numbers as the settings ask for.

    Raises:
        CheckpointError: they do not. Nothing was allocated.
    """
    layers, numbers = tensors.count, tensors.numbers
    largest = max(config.width, config.mlp_width, config.heads * config.head_size, tokens)
    room = numbers + _FEW_NUMBERS
    if config.layers <= layers + _FEW_LAYERS and largest <= room:
        vocab = decoder.padded_vocab(tokens + 1)
        shapes = decoder.param_shapes(config, vocab=vocab)
        flat = traverse_util.flatten_dict(shapes, sep="/")
        asked = sum(math.prod((tokens, *x.shape[1:]) if path in _BY_TOKEN else x.shape) for path, x in flat.items())
        if asked <= room:
            return shapes
    raise CheckpointError(
        f"{tensors.where}: its {layers} tensors have {numbers} numbers, too few for {config.layers} layers of width "
        f"{config.width}, as its settings say"
    )


class FolderTensors:
    """The tensors of a folder's safetensors, read from disk one at a time; a `TensorSource` while it is entered."""

    def __init__(self, folder: Path):
        self.where = folder
        self._open = ExitStack()
        self._found: dict[str, tuple[Any, str]] = {}  # name -> the file it is in, its name there

    def __enter__(self) -> "FolderTensors":
        with ExitStack() as opened:
            for path in _weight_files(self.where):
                try:
                    file = opened.enter_context(safetensors.safe_open(path, framework="numpy"))
                except (OSError, safetensors.SafetensorError) as error:
                    raise CheckpointError(f"cannot read {path}: {error}") from None
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    short = name.removeprefix("transformer.").removeprefix("model.")
                    self._found[short] = (file, name)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._found)

    @property
    def numbers(self) -> int:
        """How many numbers they hold together; safetensors has compared their shapes with the files' sizes."""
        return sum(math.prod(file.get_slice(name).get_shape()) for file, name in self._found.values())

    def read(self, name: str) -> np.ndarray:
        file, full = self._entry(name)
        tensor: np.ndarray = file.get_tensor(full)
        return tensor

    def dtype(self, name: str) -> str:
        file, full = self._entry(name)
        stored = file.get_slice(full).get_dtype()
        if stored not in _FLOATS:
            raise CheckpointError(f"{self.where}: tensor {full} is {stored}; supported are {_listed(_FLOATS)}")
        return _FLOATS[stored]

    def refuse_others(self, names: set[str]) -> None:
        """Tensors that nothing here reads mean a model that is built in another way."""
        others = sorted(name for name in self._found if name not in names and not name.endswith(_NO_PARAMETERS))
        if others:
            raise CheckpointError(
                f"{self.where}: {len(others)} tensors that a model of these settings does not have, the first "
                f"{others[0]!r}; adapters must be merged, and heads other than lm_head are not supported"
            )

    def _entry(self, name: str) -> tuple[Any, str]:
        if name not in self._found:
            raise CheckpointError(f"{self.where}: its safetensors hold no tensor {name!r}")
        return self._found[name]


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    if (folder / WEIGHTS_FILE).exists() or not index.exists():
        names = [WEIGHTS_FILE]
    else:
        try:
            names = sorted(set(parse_json(index.read_bytes())["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"cannot read {index}: {error!r}") from None
        if others := [name for name in names if not isinstance(name, str) or not _SHARD.fullmatch(name)]:
            raise CheckpointError(f"{index} names {others[0]!r}, which is no safetensors file of its folder")
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        hint = "; weights in other formats become it by transformers' save_pretrained" if len(names) == 1 else ""
        raise CheckpointError(f"{folder}: there is no {_listed(missing)}{hint}")
    return [folder / name for name in names]


def _filled(
    tensors: TensorSource, part: tuple[str, Transform], *, path: str, shape: tuple[int, ...], tokens: int
) -> np.ndarray:
    """Our parameter at `path`, of this shape, from its part; rows after the tokens' are zeros."""
    (name, transform), stacked, vocabulary = part, path.startswith("blocks/"), path in _BY_TOKEN
    names = [name.format(layer) for layer in range(shape[0])] if stacked else [name]
    dtypes = {tensors.dtype(each) for each in names}
    filled = np.zeros(shape, dtypes.pop() if len(dtypes) == 1 else "float32")
    for layer, each in enumerate(names):
        target = filled[layer] if stacked else filled[:tokens] if vocabulary else filled
        source = tensors.read(each)
        try:
            found = transform(source[:tokens] if vocabulary else source)
        except ValueError:
            found = source
        if found.shape != target.shape:
            raise CheckpointError(f"tensor {each!r} is {source.shape}, which does not fit the settings beside it")
        target[...] = found
    return filled


def _listed(names: Any) -> str:
    return ", ".join(names)
