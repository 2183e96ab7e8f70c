"""A tokenizer from its definition, whatever its kind: as it lies beside packed windows and in checkpoints."""

from pathlib import Path

from lacy_jax.data.tokenizer import TextTokenizer, Tokenizer
from lacy_jax.errors import DataError


def tokenizer_of(definition: bytes) -> TextTokenizer:
    """The tokenizer that has this `definition`.

    Raises:
        DataError: it is none, or one of a Hugging Face model, and the package tokenizers is missing.
    """
    if not definition.startswith(b"{"):  # JSON; no SentencePiece model begins so
        return Tokenizer(definition)
    try:
        from lacy_jax.data.hf_tokenizer import HfTokenizer
    except ImportError as error:
        raise DataError(
            f"tokenizer: it is that of a pretrained model, which needs the package {error.name}: pip install "
            '"lacy_jax[partners]"'
        ) from None
    return HfTokenizer.from_definition(definition)


def tokenizer_of_file(path: str | Path) -> TextTokenizer:
    """The tokenizer whose definition is the content of a file. Raises `DataError`, also where there is no such file."""
    try:
        definition = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"tokenizer: cannot read {path} ({error.strerror})") from None
    return tokenizer_of(definition)
