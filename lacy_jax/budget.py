"""How long a run is: a number of steps, of tokens, or of ground-truth-gradient tokens."""

import dataclasses

from lacy_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Budget:
    """The run's one limit, and the most that a step can add to its count."""

    limit: int
    unit: str  # steps | tokens | ground_truth_tokens
    most_a_step: int

    @classmethod
    def of(cls, config: Config) -> "Budget":
        training = config.training
        unit = next(name for name in ("steps", "tokens", "ground_truth_tokens") if getattr(training, name))
        batch_tokens = config.data.batch_size * config.model.context
        return cls(limit=getattr(training, unit), unit=unit, most_a_step=1 if unit == "steps" else batch_tokens)

    @property
    def least_steps(self) -> int:
        """Steps of a whole run, as if all tokens counted."""
        return -(-self.limit // self.most_a_step)


def decay_begins(config: Config) -> int:
    """The count, in the budget's unit, up to which schedule wsd keeps the peak: what the steps before it did is the
    same with every larger budget."""
    limit = Budget.of(config).limit
    return limit - round(limit * config.optimizer.decay_share)
