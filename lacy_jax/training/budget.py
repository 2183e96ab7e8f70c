"""When a run ends: after a number of steps, of tokens, or of ground-truth-gradient tokens."""

from collections.abc import Mapping

from lacy_jax.budget import Budget
from lacy_jax.config import Config
from lacy_jax.training.state import TrainState, count_value


class BudgetMeter:
    """Says after each step whether the budget is spent, exactly, and nearly always without asking the device.

    Token counts live on the device. Since a step adds at most `most_a_step`, the count is read only
    when it could have reached the limit: a few times in the last steps of a run.
    """

    def __init__(self, config: Config, state: TrainState):
        self.budget = Budget.of(config)
        self._known_step = int(state.step)
        self._known = self._read(state)

    def spent(self, step: int, state: TrainState) -> bool:
        at_most = self._known + (step - self._known_step) * self.budget.most_a_step
        if at_most >= self.budget.limit and step != self._known_step:
            self._known, self._known_step = self._read(state), step
        return self._known >= self.budget.limit

    def note(self, step: int, record: Mapping[str, float | int]) -> None:
        """Takes the count after `step` from its training record, which was read anyway."""
        if step > self._known_step:
            self._known_step, self._known = step, int(record.get(self.budget.unit, step))

    def used(self, step: int) -> int:
        """The count after `step`, for a progress bar: between two readings by the mean step so far."""
        return min(round(self._known + (step - self._known_step) * self._mean_step), self.budget.limit)

    def steps_left(self, step: int) -> float:
        """Steps after `step` to the limit, by the mean step so far; in a new run as if all tokens counted."""
        return (self.budget.limit - self.used(step)) / self._mean_step

    @property
    def _mean_step(self) -> float:
        return self._known / self._known_step if self._known else self.budget.most_a_step

    def _read(self, state: TrainState) -> int:
        if self.budget.unit == "steps":
            return int(state.step)
        return count_value(getattr(state, self.budget.unit))
