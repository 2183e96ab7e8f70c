"""How well each score of calling finds the targets that should be delegated, teacher-forced on held-out text.

    python -m benchmarks.scores runs/methods/ntp runs/methods/lacy_full

For every checkpoint and every score that a cascade can rank by, alone and gated (weighed by the probability that the
next token is factual, from a probe fitted to the training windows), it prints the area under the ROC curve for
"factual" and for "factual, and the model's own best token is wrong", and precision and recall of the latter at a
budget of 22%. The checkpoints' prepared data must still be there. The call scores of a model that was not taught
`<CALL>` are noise, and are left out.
"""

import argparse
import dataclasses

import jax
import numpy as np

from benchmarks.door import answered
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import MeshConfig
from lacy_jax.data.loader import window_batch
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared
from lacy_jax.evidence.reading import read_tokens
from lacy_jax.evidence.token_scores import cascade_scores
from lacy_jax.measures import separation
from lacy_jax.runtime import sharding
from lacy_jax.training.probe import fit_probe

BUDGET = 0.22


def validation_scores(slm: LoadedModel, prepared: Prepared, *, batches: int) -> dict[str, np.ndarray]:
    """What is said before every held-out target, by name, and `factual_target`, `wrong`."""
    size = slm.config.data.batch_size
    mesh = sharding.make_mesh(MeshConfig(), batch_size=size, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        probe = fit_probe(slm.params, prepared.train, config=slm.config, mesh=mesh, batches=batches)
    assert probe is not None
    slm = dataclasses.replace(slm, factual_probe=probe)

    parts = []
    for index in range(min(batches, -(-len(prepared.validation) // size))):
        batch = window_batch(prepared.validation, index, batch_size=size)
        tokens = np.asarray(batch.tokens)
        said = read_tokens(slm, tokens)
        values = {**said.call, "factual_target": batch.factual[:, 1:], "wrong": said.best != tokens[:, 1:]}
        valid = np.arange(1, tokens.shape[1]) < batch.lengths[:, None]
        parts.append({name: value[valid] for name, value in values.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--batches", type=int, default=16)
    options = parser.parse_args()
    print(
        "| checkpoint | score | ROC factual | ROC factual and wrong | precision | recall |\n|---|---|---|---|---|---|"
    )
    for path in options.checkpoints:
        slm = load_model(path)
        values = validation_scores(slm, prepare(slm.config, progress=lambda *_: None), batches=options.batches)
        scores = cascade_scores(slm, values)
        both = values["factual_target"] & values["wrong"]
        for name, score in scores.items():
            areas = [separation.roc_curve(score, positive) for positive in (values["factual_target"], both)]
            point = separation.at_budget(score, both, budget=BUDGET)
            assert point is not None
            cells = [f"{curve.area:.3f}" for curve in areas if curve is not None]
            cells += [f"{point.precision:.2f}", f"{point.recall:.2f}"]
            print(f"| `{slm.config.method}` | {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    answered(main)
