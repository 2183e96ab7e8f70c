"""What models say of held-out documents that each reads alone, from its beginning, as texts are written.

    python -m benchmarks.alone runs/window runs/document      # two runs of the same data; the table of docs/training.md

Training and validation read windows, in which one document follows another. Here every held-out document of the runs'
prepared data is read by itself, to the context's length. Differences to the first run are paired: the same documents,
95% bootstrap intervals over them.
"""

import argparse

import numpy as np

from benchmarks.door import answered
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.data.prepare import prepare
from lacy_jax.evidence.token_scores import TokenScores, score_documents
from lacy_jax.measures.intervals import bootstrap_interval, shown
from lacy_jax.measures.separation import roc_curve


def read_alone(path: str) -> tuple[str, TokenScores]:
    """What the model of a run attends to in training, and what it says of every held-out document."""
    slm = load_model(path)
    prepared = prepare(slm.config, tokenizer=slm.tokenizer)
    return slm.config.model.attention_within, score_documents(slm, prepared.validation_documents())


def sums(tokens: TokenScores, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each document: nats of the chosen targets, and their number."""
    size = int(tokens.documents.max()) + 1
    return (
        np.bincount(tokens.documents, tokens.nll * chosen, minlength=size),
        np.bincount(tokens.documents, chosen, minlength=size),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of runs")
    options = parser.parse_args()
    print("| run | within | nats per token | of facts | of other tokens | difference to the first | ROC area |")
    print("|---" * 7 + "|")
    first: np.ndarray | None = None
    for path in options.runs:
        within, tokens = read_alone(path)
        everything = np.ones(len(tokens.nll), bool)
        nats, counts = sums(tokens, everything)
        first = nats if first is None else first
        means = [tokens.nll[chosen].mean() for chosen in (everything, tokens.factual, ~tokens.factual)]
        name = "call_score" if "call_score" in tokens.scores else "uncertainty"
        curve = roc_curve(tokens.scores[name], tokens.factual & tokens.wrong)
        area = "-" if curve is None else f"{curve.area:.3f}"
        difference = shown(bootstrap_interval(nats - first, counts))
        cells = " | ".join(f"{mean:.3f}" for mean in means)
        print(f"| {path} | {within} | {cells} | {difference} | {area} |", flush=True)


if __name__ == "__main__":
    answered(main)
