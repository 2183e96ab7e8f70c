"""Trains every method of the comparison on the same data and prints their table (docs/methods.md).

    python -m benchmarks.methods                                   # ten methods on the embedded corpus
    python -m benchmarks.methods --marks dwiki_1k_llama_annotated.json --methods ntp,lacy,judge

Each method is a run of `python -m lacy_jax.main --config=configs/slm_tiny.py:method=...` in a process of its own, to
an equal number of tokens with a ground-truth gradient (the paper's matching), with one seed. Rho-1's reference model
is the table's own NTP run. `judge` needs facts that somebody marked: `--marks` takes a file of LMLM's, trains on its
documents in place of the embedded corpus, and gives `judge` its marks as spans while the others keep spaCy's. A
run that is finished is not repeated, one that was cut off goes on.
"""

import argparse
import collections
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.annotation_agreement import read_marked
from benchmarks.door import answered
from lacy_jax.presets import METHODS
from lacy_jax.training.metrics import read_metrics

# Title, key of the record, digits. Keys of the last validation record, unless they begin with "train:".
COLUMNS = (
    ("steps", "step", 0),
    ("tokens, M", "train:tokens", 2),
    ("ground truth, M", "train:ground_truth_tokens", 2),
    ("taken, %", "share/taken", 1),
    ("NLL", "nll/all", 3),
    ("factual", "nll/factual", 3),
    ("other", "nll/other", 3),
    ("taken", "nll/taken", 3),
    ("untaken", "nll/untaken", 3),
    ("NLL with `<CALL>`", "nll_full/all", 3),
    ("bits per byte", "bits_per_byte", 3),
    ("score, factual", "call_score/factual", 2),
    ("other", "call_score/other", 2),
    ("ROC factual", "roc/factual", 3),
    ("ROC wrong", "roc/greedy_wrong", 3),
    ("ROC both", "roc/factual_and_wrong", 3),
    ("precision, recall of both at 0.22", ("precision/factual_and_wrong@0.22", "recall/factual_and_wrong@0.22"), 2),
)
UNITS = {"train:tokens": 1e6, "train:ground_truth_tokens": 1e6, "share/taken": 0.01}


def write_corpus(marks: Path, folder: Path) -> tuple[Path, Path]:
    """The documents of an LMLM file, and its marks as spans, both as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    documents, spans = folder / "documents.jsonl", folder / "spans.jsonl"
    with documents.open("w") as texts, spans.open("w") as facts:
        for marked in read_marked(marks, collections.Counter()):
            document = marked.document
            found = [[start, end, "FACT"] for start, end in sorted(set(marked.facts))]
            texts.write(json.dumps({"id": document.id, "title": document.title, "text": document.text}) + "\n")
            facts.write(json.dumps({"id": document.id, "spans": found}) + "\n")
    return documents, spans


def command(method: str, options: argparse.Namespace) -> list[str]:
    """The command that trains one method."""
    root = Path(options.workdir)
    flags = {"training.steps": 0, "training.ground_truth_tokens": options.ground_truth_tokens}
    flags |= {"data.directory": root / "data"}
    if options.marks:
        documents, spans = write_corpus(options.marks, root / "marks")
        flags |= {"corpus.name": "jsonl", "corpus.files": documents, "corpus.validation_share": 0.1}
        if method == "judge":
            # All that was marked counts: the rule for spaCy's marks is not the judge's.
            flags |= {"annotate.annotator": "spans", "annotate.spans_file": spans, "rule.kinds": "FACT"}
            flags |= {"rule.exclude_subjects": False, "rule.first_mention_only": False}
    if method == "rho":
        flags["objective.reference"] = root / "ntp"
    settings = [f"--config.{name}={value}" for name, value in flags.items()]
    main = [sys.executable, "-m", "lacy_jax.main", f"--config=configs/slm_tiny.py:method={method}"]
    return [*main, f"--workdir={root / method}", *settings]


def result(workdir: Path) -> dict[str, Any]:
    """The run's last validation record, and its last training record under "train:"."""
    records = read_metrics(str(workdir))
    last = {split: [r for r in records if r["split"] == split][-1] for split in ("train", "validation")}
    return {**last["validation"], **{f"train:{name}": value for name, value in last["train"].items()}}


def cell(record: dict[str, Any], key: str | tuple[str, ...], digits: int) -> str:
    """One value, or several of them; "-" for what the method does not have."""
    if isinstance(key, tuple):
        return ", ".join(cell(record, each, digits) for each in key)
    if key not in record:
        return "-"
    return f"{record[key] / UNITS.get(key, 1.0):.{digits}f}"


def table(records: dict[str, dict[str, Any]]) -> str:
    """Markdown, one line per method."""
    lines = ["| method | " + " | ".join(title for title, _, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for method, record in records.items():
        cells = [cell(record, key, digits) for _, key, digits in COLUMNS]
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="runs/methods")
    parser.add_argument("--methods", default=",".join(name for name in METHODS if name not in ("judge", "gain")))
    parser.add_argument("--ground_truth_tokens", type=int, default=1_000_000)
    parser.add_argument("--marks", type=Path, help="an LMLM file of annotated text, for the method judge")
    options = parser.parse_args()
    methods = options.methods.split(",")
    if unknown := [method for method in methods if method not in METHODS]:
        parser.error(f"unknown methods {', '.join(unknown)}; allowed are {', '.join(METHODS)}")
    if "judge" in methods and not options.marks:
        parser.error("the method judge needs marked facts: give --marks FILE")
    for method in sorted(methods, key=lambda method: method == "rho"):  # its reference is the run ntp
        subprocess.run(command(method, options), check=True)
    print(table({method: result(Path(options.workdir) / method) for method in methods}))


if __name__ == "__main__":
    answered(main)
