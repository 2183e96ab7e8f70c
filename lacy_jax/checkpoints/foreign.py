"""Models made elsewhere: a Hugging Face folder or a GGUF file, described before its weights are read.

A Hugging Face folder has config.json, model.safetensors and tokenizer.json; a GGUF file is llama.cpp's. The kinds of
model that can be read stand in family.py. Nothing is ever downloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lacy_jax.checkpoints.chat_template import ChatTemplate, template_of_folder, template_of_gguf
from lacy_jax.config import ModelConfig, ParamsDtype
from lacy_jax.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from lacy_jax.data.tokenizer import TextTokenizer
    from lacy_jax.model import decoder


@dataclass(frozen=True, eq=False)
class ForeignModel:
    """A model made elsewhere, its weights not read yet.

    name: the folder's, or the file's without its ending. family: its model_type.
    tokenizer: reads it; raises `CheckpointError`. chat: reads its chat template, if it has one; raises the same.
    params: reads the weights as the decoder's parameters, in the dtype given, on this process' first device; the
        embedding has a row of zeros for `<CALL>`. Raises `CheckpointError`.
    """

    name: str
    family: str
    model: ModelConfig
    tokenizer: Callable[[], "TextTokenizer"]
    chat: Callable[[], ChatTemplate | None]
    params: Callable[["TextTokenizer", ParamsDtype], "decoder.Params"]


def open_foreign(path: str, *, kind: Literal["folder", "gguf"]) -> ForeignModel:
    """The model in a Hugging Face folder, or in a GGUF file.

    Raises:
        CheckpointError: it cannot be read, or is of a family that is not known here.
    """
    return _open_folder(Path(path)) if kind == "folder" else _open_gguf(Path(path))


def _open_folder(folder: Path) -> ForeignModel:
    try:
        from lacy_jax.checkpoints import hf
        from lacy_jax.data.hf_tokenizer import HfTokenizer
    except ImportError as error:
        raise CheckpointError(f"{folder} is a Hugging Face folder: reading it needs the package {error.name}") from None
    settings = hf.read_settings(folder)
    model = hf.model_config(settings)

    def tokenizer() -> "TextTokenizer":
        try:
            return HfTokenizer.from_folder(folder)
        except DataError as error:
            raise CheckpointError(str(error)) from None

    def params(tokenizer: "TextTokenizer", dtype: ParamsDtype) -> "decoder.Params":
        with hf.FolderTensors(folder) as tensors:
            return hf.read_params(tensors, settings, config=model, tokens=tokenizer.call_id, dtype=dtype)

    return ForeignModel(
        name=folder.name,
        family=settings["model_type"],
        model=model,
        tokenizer=tokenizer,
        chat=lambda: template_of_folder(folder),
        params=params,
    )


def _open_gguf(path: Path) -> ForeignModel:
    try:
        from lacy_jax.checkpoints import hf
        from lacy_jax.checkpoints.gguf_file import GgufFile
        from lacy_jax.checkpoints.gguf_tokenizer import read_tokenizer
    except ImportError as error:
        raise CheckpointError(f"{path} is a GGUF file: reading it needs the package {error.name}") from None
    file = GgufFile(path)
    settings = file.settings()
    try:
        model = hf.model_config(settings)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None

    def params(tokenizer: "TextTokenizer", dtype: ParamsDtype) -> "decoder.Params":
        return hf.read_params(file, settings, config=model, tokens=tokenizer.call_id, dtype=dtype)

    return ForeignModel(
        name=path.stem,
        family=file.architecture,
        model=model,
        tokenizer=lambda: read_tokenizer(file),
        chat=lambda: template_of_gguf(file.value, where=str(path)),
        params=params,
    )
