"""Probes: linear functions of a decoder's final hidden states, kept beside its parameters."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Probe:
    """hidden @ weights + bias; `weights`: D floats, on final hidden states.

    Of the probe for factual tokens this is the log-odds that the next token is one.
    """

    weights: tuple[float, ...]
    bias: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe_weights(probe: Probe | None, *, width: int) -> np.ndarray:
    """float32 [D + 1], the bias last; zeros where there is no probe, whose every probability is then 1/2."""
    return np.zeros(width + 1, np.float32) if probe is None else np.array([*probe.weights, probe.bias], np.float32)
