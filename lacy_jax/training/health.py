"""Whether steps go well: is each loss a number, and is it near those before it?"""

import dataclasses
import math
from typing import Any

import numpy as np

WINDOW = 100  # losses that the next one is compared with
LEAST = 20  # of them, before a loss can be a spike
NARROWEST = 0.01  # of the mean: what counts as one standard deviation at least, where losses hardly differ


@dataclasses.dataclass(frozen=True)
class Health:
    """What is known of the steps so far. A checkpoint keeps it, so a resumed run judges as the first one would have.

    skipped: steps in a row, up to the last one, that were skipped. losses: the last `WINDOW` that are finite.
    """

    skipped: int = 0
    losses: tuple[float, ...] = ()

    def after(self, *, loss: float, gradient_norm: float) -> "Health":
        """With one more step; it was skipped if one of the two is not finite, as `train_step` does."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return dataclasses.replace(self, skipped=self.skipped + 1)
        return Health(0, (*self.losses[1 - WINDOW :], loss))

    def deviations(self, loss: float) -> float:
        """How far a loss is above those before it, in their standard deviations; 0 where these are fewer than LEAST."""
        if len(self.losses) < LEAST or not math.isfinite(loss):
            return 0.0
        mean = float(np.mean(self.losses))
        return (loss - mean) / max(float(np.std(self.losses)), NARROWEST * abs(mean), 1e-12)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `read_health` reads it."""
        return {"skipped": self.skipped, "losses": list(self.losses)}


def read_health(stored: Any) -> Health:
    """What `to_dict` gave; a new one for anything else, such as the None of an older checkpoint."""
    try:
        losses = [float(loss) for loss in stored["losses"][-WINDOW:]]
        return Health(int(stored["skipped"]), tuple(loss for loss in losses if math.isfinite(loss)))
    except (TypeError, KeyError, ValueError, OverflowError):
        return Health()
