"""Times a decoding step by the number of groups that a session's rows are shared out over.

    python -m benchmarks.groups                                                   # random weights of slm_tiny's size
    python -m benchmarks.groups --checkpoint runs/SmolLM2-135M-Instruct.gguf --rows 16,64

A group is decoded by a thread of its own (docs/cascade.md). Each line has the bytes of all rows' caches over those of
the weights, by which `group_count` chooses, the time of a step in one group, its ratio in two, with quartiles, and
what is chosen here. Both sides write the same rows in turn, so a machine that is busy for a while disturbs both alike.
"""

import argparse
import statistics
import time

import numpy as np

from benchmarks.decode import SLM, random_model
from benchmarks.door import answered, counts, ratio_line
from lacy_jax.cascade.decoding.engine import SMALLEST_BUCKET, Engine
from lacy_jax.cascade.decoding.programs import MOST_STEPS
from lacy_jax.cascade.decoding.session import Session, cache_ratio, group_count
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import full_text
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer


def model_to_time(checkpoint: str | None) -> LoadedModel:
    """The model of a checkpoint, or random weights of slm_tiny's size."""
    if checkpoint:
        return load_model(checkpoint)
    texts = [full_text(each) for each, _ in zip(read_documents(CorpusConfig()), range(2000), strict=False)]
    return random_model(SLM, Tokenizer.from_bytes(train_tokenizer(texts, vocab_size=4096)), seed=0)


def measure(engine: Engine, *, slots: int, rounds: int) -> str:
    """The line for so many rows."""
    rng = np.random.default_rng(0)
    most = min(SMALLEST_BUCKET, engine.context) - MOST_STEPS - 2
    rows = {slot: rng.integers(3, engine.call_id, most // 2).tolist() for slot in range(slots)}
    sessions = {groups: Session(engine, slots=slots, groups=groups) for groups in (1, 2)}
    seconds: dict[int, list[float]] = {groups: [] for groups in sessions}
    for round_ in range(rounds + 1):
        for groups, session in sessions.items():
            session.steps(rows)  # what follows is written, not read
            started = time.perf_counter()
            session.steps(rows, ahead=MOST_STEPS)
            if round_:  # the first compiles
                seconds[groups].append((time.perf_counter() - started) / MOST_STEPS)
    figures = f"{slots:5}{cache_ratio(engine, slots):10.1f}{1e3 * statistics.median(seconds[1]):10.2f}"
    return f"{figures}    {ratio_line(seconds[2], seconds[1])}{group_count(engine, slots):8}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="the model; default: random weights")
    parser.add_argument("--rows", type=counts, default="8,16,64")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    engine = Engine(model_to_time(options.checkpoint))
    print(" rows  caches/w  ms, one   two / one (quartiles)  chosen")
    for slots in options.rows:
        print(measure(engine, slots=slots, rounds=options.rounds), flush=True)


if __name__ == "__main__":
    answered(main)
