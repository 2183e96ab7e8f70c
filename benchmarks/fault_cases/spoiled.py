"""A training run whose batches of some numbers give NaN: python -m benchmarks.fault_cases.spoiled NUMBERS FLAGS..."""

import sys
from typing import Any

from lacy_jax import main
from lacy_jax.data import loader
from lacy_jax.doors import run

NO_TOKEN = 10**6  # the embedding has no such row: its hidden states are NaN, as after an overflow


def spoil(numbers: set[int]) -> None:
    original = loader.batch_at

    def batch_at(source: Any, step: int, **options: Any) -> Any:
        batch = original(source, step, **options)
        if step in numbers:
            batch.tokens[:, 0] = NO_TOKEN
        return batch

    loader.batch_at = batch_at


if __name__ == "__main__":
    _, _numbers, *_words = sys.argv
    sys.argv = ["main", *_words]
    spoil({int(number) for number in _numbers.split(",")})
    run(main.DOOR)
