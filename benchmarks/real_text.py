"""Models from scratch on real text, with a pretrained one as partner: what true text costs, by who is asked where.

    python -m benchmarks.real_text --partner=checkpoint:runs/SmolLM2-135M-Instruct.gguf [--out=runs/real_text]
        [--documents=3000] [--steps=320] [--seeds=3] [--workers=2] [--arms=ntp,gain] [--people=60]

Each run is `python -m lacy_jax.main` in a process of its own, on leads of the embedded corpus. A tenth of them is held
out. A finished run is not repeated. The partner marked the text by reading it (docs/annotation.md), so what it pays for
every token is known. Then the held-out leads are read up to the context, each true token given. Where a model's score
is highest it asks, and the partner pays for the text up to the next place where tokens of both end, mostly a word. The
model pays for the rest. Bits per byte are those of all that is read, at equal shares of tokens asked for. The last line
of each run asks where that saves most, as only somebody can who knows the text; the line before it where a linear
function of the model's hidden state expects that, fitted to training documents. Intervals are 95%, t over seeds;
differences are paired.

With --people every run also writes about that many people, a tenth of the tokens delegated to the partner or to a
search over the documents: claims that the person's article contains, by the checker of docs/real_text.md.
"""

import argparse
import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import cast

import jax
import numpy as np
from scipy import stats

from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import ModelConfig, ScoreSetting
from lacy_jax.data.datasets import AnnotatedSource, version_folder
from lacy_jax.data.documents import Document, Spans, Split, split_of
from lacy_jax.evidence.reading import ROWS, Reading, as_batch, read_documents
from lacy_jax.evidence.real_text.people import find_people
from lacy_jax.evidence.real_text.suite import evaluate_real_text
from lacy_jax.evidence.token_scores import cascade_scores
from lacy_jax.measures.intervals import paired_t
from lacy_jax.model import decoder

BUDGET = 0.1  # of the tokens, for texts about people
COSTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 1.0)
SAVES = "where it saves most"
EXPECTED = "expected saving"  # a linear function of the hidden state, fitted to what the partner saves in training text
FITTED, RIDGE = 800, 1e-4  # training documents; weight of the squares, per piece
# 1.1M parameters: a step takes a second of one core.
MODEL = {"model.layers": 3, "model.width": 128, "model.heads": 2, "corpus.validation_share": 0.1}
EVERYWHERE = {"rule": "loss", "rate": 1.0, "rate_of": "valid"}  # where the partner says nothing, nothing is taken


@dataclass(frozen=True)
class Arm:
    """One way to train. method: a name of METHODS; objective: settings besides; marks: who made them."""

    method: str
    marks: str
    objective: Mapping[str, object]
    scores: tuple[str, ...]


ARMS = {
    "ntp": Arm("ntp", "partner", {}, ("uncertainty", "entropy", "uncertainty, gated")),
    "gain": Arm("gain", "partner", {}, ("call_score",)),
    "mixture": Arm(
        "mixture", "partner", EVERYWHERE | {"partner_losses": "stored", "call_cost": 1.0}, ("call_score",)
    ),
    "lacy": Arm("lacy_full", "spacy", {}, ("call_score",)),
    "defer": Arm("defer", "partner", {}, ("call_score",)),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cells:
    """Held-out text in N pieces, each the least that ends with a token of the SLM and one of the partner.

    tokens: int[N], of the SLM. bytes: int[N]. own, theirs: float[N], nats. hidden: float32[N, D], the SLM's final state
    before each piece. scores: by name, likewise.
    """

    tokens: np.ndarray
    bytes: np.ndarray
    own: np.ndarray
    theirs: np.ndarray
    hidden: np.ndarray
    scores: Mapping[str, np.ndarray]

    def bits_per_byte(self, score: str, *, cost: float) -> float:
        """Of the whole text, if the partner pays for the pieces of the highest scores, `cost` of all tokens at most."""
        order = np.argsort(-self.scores[score], kind="stable")
        asked = np.zeros(len(order), bool)
        asked[order] = np.cumsum(self.tokens[order]) <= cost * self.tokens.sum()
        return float(np.where(asked, self.theirs, self.own).sum() / np.log(2) / self.bytes.sum())


def cells_of(slm: LoadedModel, documents: Sequence[tuple[Document, Spans]]) -> Cells:
    """The pieces of all documents, as far as the SLM reads them."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("tokens", "bytes", "own", "theirs", "hidden")}
    scores: dict[str, list[np.ndarray]] = {}
    readings = read_documents(slm, documents)
    for reading, hidden_TD, (_, spans) in zip(readings, hidden_states(slm, readings), documents, strict=True):
        losses = spans.losses
        assert losses is not None
        ends = np.intersect1d(reading.ends, losses.ends)
        if not len(ends):
            continue
        mine = np.searchsorted(reading.ends, ends, side="right")  # tokens up to each end, those of one character all
        theirs = np.searchsorted(losses.ends, ends, side="right")
        firsts = np.append(0, mine[:-1])
        columns["hidden"].append(hidden_TD[firsts])
        columns["tokens"].append(np.diff(mine, prepend=0))
        texts = [reading.text[start:end] for start, end in zip(np.append(0, ends[:-1]), ends, strict=True)]
        columns["bytes"].append(np.array([len(text.encode()) for text in texts]))
        columns["own"].append(np.diff(np.cumsum(reading.said.nll, dtype=np.float64)[mine - 1], prepend=0.0))
        columns["theirs"].append(np.diff(np.cumsum(losses.nats, dtype=np.float64)[theirs - 1], prepend=0.0))
        for name, values in cascade_scores(slm, reading.said.call).items():
            scores.setdefault(name, []).append(values[firsts])
    joined = {name: np.concatenate(each) for name, each in columns.items()}
    saved = (joined["own"] - joined["theirs"]) / joined["tokens"]
    return Cells(**joined, scores={name: np.concatenate(each) for name, each in scores.items()} | {SAVES: saved})


def hidden_states(slm: LoadedModel, readings: Sequence[Reading]) -> Iterator[np.ndarray]:
    """The final states before the targets of each document, float32 [T, D]."""
    for first in range(0, len(readings), ROWS):
        group = readings[first : first + ROWS]
        tokens_BT = as_batch(slm.tokenizer, [each.ids for each in group], context=slm.model.context)
        hidden_BTD = np.asarray(_hidden(slm.params, tokens_BT[:, :-1], config=slm.reader))
        yield from (hidden_TD[: len(each.ids)] for hidden_TD, each in zip(hidden_BTD, group, strict=False))


@functools.partial(jax.jit, static_argnames="config")
def _hidden(params: decoder.Params, tokens_BT: jax.Array, *, config: ModelConfig) -> jax.Array:
    return decoder.read(params, tokens_BT, config=config)[0]


def expected_saving(fitted: Cells, cells: Cells) -> np.ndarray:
    """What the partner saves per token of each piece of `cells`, by ridge regression on the states of `fitted`."""
    middle, spread = fitted.hidden.mean(axis=0), fitted.hidden.std(axis=0) + 1e-6
    one_ND, other_ND = (np.insert((each.hidden - middle) / spread, 0, 1.0, axis=1) for each in (fitted, cells))
    weighed_ND = one_ND * fitted.tokens[:, None]
    squares = weighed_ND.T @ one_ND + RIDGE * len(one_ND) * np.eye(one_ND.shape[1])
    found: np.ndarray = other_ND @ np.linalg.solve(squares, weighed_ND.T @ fitted.scores[SAVES])
    return found


def command(arm: Arm, options: argparse.Namespace, *, seed: int, folder: Path) -> list[str]:
    """The command that trains a run."""
    flags: dict[str, object] = MODEL | {
        "corpus.max_documents": options.documents,
        "data.directory": Path(options.out) / "data",
        "training.steps": options.steps,
        "training.seed": seed,
        "data.seed": seed,
        "training.evaluate_every": options.steps,
        "training.checkpoint_every": options.steps,
        "cascade.samples": 0,
    }
    flags |= {f"objective.{name}": value for name, value in arm.objective.items()}
    if arm.marks == "partner":
        flags |= {"annotate.annotator": "partner", "annotate.partner": options.partner, "rule.sub_tokens": "first"}
    settings = [f"--config.{name}={value}" for name, value in flags.items()]
    main = [sys.executable, "-m", "lacy_jax.main", f"--config=configs/slm_tiny.py:method={arm.method}"]
    return [*main, f"--workdir={folder}", *settings]


def train(options: argparse.Namespace) -> dict[tuple[str, int], Path]:
    """Trains what is missing, a run on each of some cores; the first two make the data, and go alone."""
    folders = {
        (name, seed): Path(options.out) / f"{name}_{seed}"
        for seed in range(options.seeds)
        for name in options.arms.split(",")
    }
    cores: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[: options.workers]:
        cores.put(core)

    def run(job: tuple[str, int], *, alone: bool = False) -> None:
        folder = folders[job]
        words = command(ARMS[job[0]], options, seed=job[1], folder=folder)
        core = cores.get()
        pinned = [] if alone else ["taskset", "--cpu-list", str(core)]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with open(f"{folder}.log", "a") as log:
                subprocess.run([*pinned, *words], check=True, stdout=log, stderr=subprocess.STDOUT)
        finally:
            cores.put(core)

    first = {ARMS[name].marks: (name, 0) for name in reversed(options.arms.split(","))}
    for job in first.values():
        run(job, alone=True)
    with ThreadPoolExecutor(options.workers) as pool:
        for _ in pool.map(run, folders):
            pass
    return folders


def marked_documents(slm: LoadedModel, out: Path) -> dict[Split, list[tuple[Document, Spans]]]:
    """The documents with the partner's losses: those that are held out, and some of the others."""
    folders = [version_folder(folder) for folder in sorted((out / "data" / "annotated").iterdir())]
    found = [source for source in map(AnnotatedSource, folders) if source.has_losses]
    if len(found) != 1:
        sys.exit(
            f"{out}/data/annotated has {len(found)} datasets of a model's marks, in place of one: take another --out"
        )
    splits: dict[Split, list[tuple[Document, Spans]]] = {"train": [], "validation": []}
    for each in found[0]:
        splits[split_of(each[0].id, validation_share=slm.config.corpus.validation_share)].append(each)
    every = max(1, len(splits["train"]) // FITTED)
    return splits | {"train": splits["train"][::every][:FITTED]}


def claims_of(slm: LoadedModel, arm: Arm, options: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """(who answers, asks by) -> share of claims supported, supported claims per text, share of tokens delegated."""
    people = find_people(slm.config.corpus, count=options.people)
    found = {}
    for partner in ("none", "documents", options.partner):
        for score in arm.scores if partner != "none" else ("-",):
            name, _, gated = score.partition(", ")
            settings = replace(
                slm.config.cascade,
                policy="quantile",
                score=cast(ScoreSetting, "auto" if score == "-" else name),
                gate="factual" if gated else "none",
            )
            result = evaluate_real_text(
                slm, partner=partner, budget=BUDGET if partner != "none" else 0.0, people=people, settings=settings
            ).scores
            each = (result.precision, result.supported_claims, result.call_share)
            found[partner.partition(":")[0], score] = [one.estimate for one in each]
    return found


def print_claims(found: Mapping[tuple[str, str, str], Sequence[Sequence[float]]], people: int) -> None:
    """The table of texts about people."""
    print(f"\n{people} people, held out as far as there are so many; a budget of {BUDGET:.0%}")
    print("| trained by | who answers | asks by | claims supported | supported claims per text | delegated |")
    print("|---" * 6 + "|")
    for key, runs in found.items():
        print("| " + " | ".join(key) + " | " + " | ".join(map(interval, zip(*runs, strict=True))) + " |")


def interval(values: Sequence[float]) -> str:
    """Mean and half of the 95% t interval."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partner", required=True)
    parser.add_argument("--out", default="runs/real_text")
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--people", type=int, default=0)
    parser.add_argument("--arms", default=",".join(ARMS))
    options = parser.parse_args()
    found: dict[tuple[str, str], list[list[float]]] = {}
    claims: dict[tuple[str, str, str], list[list[float]]] = {}
    for (name, _), folder in train(options).items():
        slm = load_model(str(folder))
        splits = marked_documents(slm, Path(options.out))
        fitted, cells = (cells_of(slm, splits[split]) for split in ("train", "validation"))
        cells = replace(cells, scores={**cells.scores, EXPECTED: expected_saving(fitted, cells)})
        for score in (*ARMS[name].scores, EXPECTED, SAVES):
            bits = [cells.bits_per_byte(score, cost=cost) for cost in COSTS]
            found.setdefault((name, score), []).append(bits)
            print(f"{folder.name:<12} {score:<20} {' '.join(f'{each:.3f}' for each in bits)}", flush=True)
        for key, each in (claims_of(slm, ARMS[name], options) if options.people else {}).items():
            claims.setdefault((name, *key), []).append(each)
            print(f"{folder.name:<12} {' by '.join(key):<30} {' '.join(f'{one:.3f}' for one in each)}", flush=True)
    print(f"{len(splits['validation'])} held-out leads, {cells.bytes.sum():,} bytes, {cells.tokens.sum():,} tokens\n")
    print("| trained by | asks by | " + " | ".join(f"{cost:.0%}" for cost in COSTS) + " |")
    print("|---" * (len(COSTS) + 2) + "|")
    for (name, score), runs in found.items():
        print(f"| {name} | {score} | " + " | ".join(map(interval, zip(*runs, strict=True))) + " |")
    first, base = next(iter(found.items()))
    for key, runs in found.items():
        if options.seeds > 1 and key[1] != SAVES and key != first:
            at = [paired_t(column) for column in (np.array(runs) - np.array(base)).T[2:5]]
            said = ", ".join(f"{each.mean:+.3f} ({each.low:+.3f} to {each.high:+.3f})" for each in at)
            print(f"{' by '.join(key)} less {' by '.join(first)} at 5, 10, 20%: {said}")
    if claims:
        print_claims(claims, options.people)


if __name__ == "__main__":
    main()
