"""Checkpoints for other programs: Hugging Face folders and GGUF files. The names here are flags' and import no JAX."""

from typing import Literal

from lacy_jax.config import ParamsDtype

ExportDtype = Literal[ParamsDtype, "float16"]
ExportFormat = Literal["orbax", "hf", "gguf"]
