"""Times decoding on a CPU by how the matrices of linear layers lie: [I, O], as in training, or outward first, [O, I].

    python -m benchmarks.outward                                                  # random weights of slm_tiny's size
    python -m benchmarks.outward --checkpoint runs/SmolLM2-135M-Instruct.gguf --rows 1,8,64

Each line has a step's time in both ways, their ratio with quartiles, the weights' bytes over the second, and the time
of reading a prompt of 48 tokens, outward first, and over the other way. Both sides do the same in turn, so a machine
that is busy for a while disturbs both alike.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from benchmarks.door import answered, counts, ratio_line
from benchmarks.groups import model_to_time
from lacy_jax.cascade.decoding.engine import Engine
from lacy_jax.cascade.decoding.programs import MOST_STEPS
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.model import decoder

PROMPT = 48  # tokens, or half of what the model sees
WAYS: tuple[decoder.Kernels, ...] = ("inward", "outward")


def engines(checkpoint: str | None) -> dict[str, Engine]:
    """The same model, its kernels in both ways."""
    loaded = model_to_time(checkpoint)
    made: dict[str, Engine] = {}
    for kernels in WAYS:
        made[kernels] = Engine(loaded)
        params = decoder.unstack_layers(loaded.params, kernels=kernels)
        made[kernels].weights = made[kernels].weights._replace(params=params)
    return made


def measure(made: dict[str, Engine], *, slots: int, rounds: int) -> str:
    """The line for so many rows."""
    rng, length = np.random.default_rng(0), min(PROMPT, made["inward"].context // 2)
    sessions = {kernels: Session(engine, slots=slots) for kernels, engine in made.items()}
    reads: dict[str, list[float]] = {kernels: [] for kernels in made}
    steps: dict[str, list[float]] = {kernels: [] for kernels in made}
    for round_ in range(rounds + 1):
        rows = {slot: rng.integers(3, made["inward"].call_id, length).tolist() for slot in range(slots)}
        for kernels, session in sessions.items():
            started = time.perf_counter()
            session.steps(rows)
            read = time.perf_counter()
            session.steps(rows, ahead=MOST_STEPS)
            if round_:  # the first compiles
                reads[kernels].append(read - started)
                steps[kernels].append((time.perf_counter() - read) / MOST_STEPS)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(made["inward"].weights.params))
    inward, outward = (statistics.median(steps[kernels]) for kernels in WAYS)
    step = f"{1e3 * inward:10.1f}{1e3 * outward:10.1f}   {ratio_line(steps['outward'], steps['inward'])}"
    read_line = f"{1e3 * statistics.median(reads['outward']):10.0f}   {ratio_line(reads['outward'], reads['inward'])}"
    return f"{slots:5}{step}{1e-9 * size / outward:8.1f}{read_line}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="the model; default: random weights")
    parser.add_argument("--rows", type=counts, default="1,8,64")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    made = engines(options.checkpoint)
    print(" rows  ms, [I,O]     [O,I]   ratio (quartiles)      GB/s  read, ms   ratio (quartiles)")
    for slots in options.rows:
        print(measure(made, slots=slots, rounds=options.rounds), flush=True)


if __name__ == "__main__":
    answered(main)
