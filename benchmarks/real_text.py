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
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import cast

import numpy as np
from scipy import stats

from benchmarks.door import answered
from lacy_jax.adaptation.saving import fit_saving, pieces_of
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import ScoreSetting
from lacy_jax.data.datasets import AnnotatedSource, version_folder
from lacy_jax.data.documents import Document, Spans, Split, split_of
from lacy_jax.errors import LacyError
from lacy_jax.evidence.real_text.people import find_people
from lacy_jax.evidence.real_text.suite import evaluate_real_text
from lacy_jax.measures.intervals import paired_t

BUDGET = 0.1  # of the tokens, for texts about people
COSTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 1.0)
SAVES = "where it saves most"
EXPECTED = "expected_saving"
FITTED = 800  # training documents
# 1.1M parameters: a step takes a second of one core.
MODEL = {"model.layers": 3, "model.width": 128, "model.heads": 2, "corpus.validation_share": 0.1}
EVERYWHERE = {"rule": "loss", "rate": 1.0, "rate_of": "valid"}  # where the partner says nothing, nothing is taken
TENTH = {"treatment": "ignore", "rate": 0.1, "rate_of": "valid"}


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
    "mixture_tenth": Arm(
        "mixture", "partner",
        EVERYWHERE | {"partner_losses": "stored", "call_cost": 1.0, "call_rate": 0.1}, ("call_score",),
    ),
    "lacy": Arm("lacy_full", "spacy", {}, ("call_score",)),
    "defer": Arm("defer", "partner", {}, ("call_score",)),
    # What is given up, and frees what? A tenth of the targets has no loss: drawn at random, or of the largest savings.
    "without_random": Arm("ntp", "partner", TENTH | {"rule": "random"}, ("uncertainty",)),
    "without_saved": Arm("ntp", "partner", TENTH | {"rule": "loss", "partner_losses": "stored"}, ("uncertainty",)),
}  # fmt: skip


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
            print(f"{folder.name}: what it says goes to {folder}.log", file=sys.stderr, flush=True)
            with open(f"{folder}.log", "a") as log:
                status = subprocess.run([*pinned, *words], stdout=log, stderr=subprocess.STDOUT).returncode
            if status:
                said = Path(f"{folder}.log").read_text().strip().rpartition("\n")[2]
                raise LacyError(f"{folder.name} ended with status {status}, and said last: {said}")
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
    whole = replace(slm.config.corpus, max_documents=0)  # the first documents of the corpus are about nobody
    slm = replace(slm, config=replace(slm.config, corpus=whole))
    people = find_people(whole, count=options.people)
    found = {}
    ways = [score for score in arm.scores if score != "entropy"]
    for partner, scores in {"none": ["-"], "documents": ways, options.partner: [*ways, EXPECTED]}.items():
        for score in scores:
            name, _, gated = score.partition(", ")
            settings = replace(
                slm.config.cascade,
                policy="quantile",
                score=cast(ScoreSetting, "auto" if score == "-" else name),
                gate="factual" if gated else "none",
                timeout=600.0,  # a model on a CPU is slow, not away
            )
            result = evaluate_real_text(
                slm, partner=partner, budget=BUDGET if partner != "none" else 0.0, people=people, settings=settings
            ).scores
            each = (result.precision, result.supported_claims, result.call_share)
            found[partner.partition(":")[0], score] = [one.estimate for one in each]
    return found


def print_claims(found: Mapping[tuple[str, str, str], Sequence[Sequence[float]]], people: int) -> None:
    """The table of texts about people."""
    print(f"\n{people} people, of whom no model has read; a budget of {BUDGET:.0%}")
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
    parser.add_argument("--arms", default="ntp,gain,mixture,lacy,defer", help=", ".join(ARMS))
    options = parser.parse_args()
    found: dict[tuple[str, str], list[list[float]]] = {}
    claims: dict[tuple[str, str, str], list[list[float]]] = {}
    for (name, _), folder in train(options).items():
        slm = load_model(str(folder))
        splits = marked_documents(slm, Path(options.out))
        fitted, pieces = (pieces_of(slm, splits[split]) for split in ("train", "validation"))
        slm = replace(slm, saving_probe=fit_saving(fitted))
        scores = pieces.scores(slm) | {SAVES: pieces.saved}
        for score in (*ARMS[name].scores, EXPECTED, SAVES):
            bits = [pieces.bits_per_byte(scores[score], share=share) for share in COSTS]
            found.setdefault((name, score), []).append(bits)
            print(f"{folder.name:<12} {score:<20} {' '.join(f'{each:.3f}' for each in bits)}", flush=True)
        for key, each in (claims_of(slm, ARMS[name], options) if options.people else {}).items():
            claims.setdefault((name, *key), []).append(each)
            print(f"{folder.name:<12} {' by '.join(key):<30} {' '.join(f'{one:.3f}' for one in each)}", flush=True)
    print(f"{len(splits['validation'])} held-out leads, {pieces.bytes.sum():,} bytes, {pieces.tokens.sum():,} tokens\n")
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
    answered(main)
