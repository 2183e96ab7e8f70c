"""Prepares a large corpus in Dolma's format, start to packed records, beside raw `nlp.pipe`, and watches the memory.

    python -m benchmarks.prepare_corpus FOLDER [--megabytes=200] [--workers=2] [--pairs=40]
    python -m benchmarks.prepare_corpus FOLDER --embedded

`--embedded` takes vital_articles as it is. Without it the corpus is generated once from sentences of vital_articles:
documents of one sentence to hundreds, with new numbers and made-up names, so that spaCy's store of strings grows as on
a real corpus. `lacy_jax.prepare` then runs as a user runs it. Meanwhile this process marks batches of the same corpus
in turns, by the product's annotator and by raw `nlp.pipe` with the same parts of the same model. Speeds are characters
per CPU second, so other work on the machine matters little. The last lines show the memory of the processes over time.
"""

import argparse
import gzip
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.door import answered
from lacy_jax.config import CorpusConfig
from lacy_jax.data.annotators.spacy_words import UNREAD, SpacyMarker, installed_model, load_pipeline
from lacy_jax.data.batches import document_batches
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document
from lacy_jax.data.pack import SPLITS, Packed
from lacy_jax.data.prepared import open_elsewhere

FILE_BYTES = 10_000_000  # of text in one file
PAPER = 152  # core-hours for 1e9 tokens, arXiv 2602.12005
_SENTENCE = re.compile(r"(?<=[a-z]{2}[.!?]) (?=[A-Z])")
_WORD = re.compile(r"\d+|(?<=[a-z,] )[A-Z][a-z]{3,}")
_SYLLABLES = ("ba", "che", "dor", "el", "fin", "gra", "hol", "is", "ka", "lum", "mor", "nes", "o", "pri", "ros", "tha")


def sentences() -> list[str]:
    """All sentences of vital_articles."""
    return [each for document in read_documents(CorpusConfig()) for each in _SENTENCE.split(document.text)]


def varied(sentence: str, chance: random.Random) -> str:
    """The sentence with every second number, and some names within it, replaced by ones that may never have been."""

    def other(match: re.Match[str]) -> str:
        word = match.group()
        if word[0].isdigit():
            return "".join(chance.choices("0123456789", k=len(word))) if chance.random() < 0.5 else word
        return "".join(chance.choices(_SYLLABLES, k=3)).capitalize() if chance.random() < 0.1 else word

    return _WORD.sub(other, sentence)


def texts(megabytes: int, chance: random.Random) -> Iterator[str]:
    """Documents until their UTF-8 reaches `megabytes` million bytes."""
    known, left = sentences(), megabytes * 1_000_000
    while left > 0:
        count = min(2000, 1 + int(chance.lognormvariate(0.5, 1.2)))
        text = " ".join(varied(each, chance) for each in chance.choices(known, k=count))
        left -= len(text.encode())
        yield text


def write_corpus(folder: Path, *, megabytes: int) -> None:
    """Files of JSON lines with Dolma's fields, compressed as Dolma's are."""
    folder.mkdir(parents=True)
    stream, number = texts(megabytes, random.Random(0)), 0
    for file in range(-(-megabytes * 1_000_000 // FILE_BYTES)):
        size = 0
        with gzip.open(folder / f"part-{file:04}.json.gz", "wt", compresslevel=4, encoding="utf-8") as out:
            for text in stream:
                record = {"id": f"gen-{number}", "text": text, "source": "generated", "metadata": {}}
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
                number, size = number + 1, size + len(text.encode())
                if size >= FILE_BYTES:
                    break


def memory(process: int) -> tuple[float, list[float]]:
    """MiB that a process holds, and those that each of its children holds."""

    def resident(each: int) -> float:
        return int(Path(f"/proc/{each}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    children = Path(f"/proc/{process}/task/{process}/children")
    found = []
    for each in " ".join(path.read_text() for path in children.parent.parent.glob("*/children")).split():
        try:
            found.append(resident(int(each)))
        except OSError:  # it has just ended
            continue
    return resident(process), found


def paired(batches: Sequence[list[Document]]) -> list[tuple[float, float, int]]:
    """Of each batch: CPU seconds of raw `nlp.pipe`, those of the annotator, in turns, and its characters."""
    import spacy

    model = installed_model("")
    raw, marker = spacy.load(model, exclude=UNREAD), SpacyMarker(load_pipeline(model))
    found = []
    for number, batch in enumerate(batches):
        seconds = {}
        for which in ("raw", "own") if number % 2 else ("own", "raw"):
            began = time.process_time()
            if which == "raw":
                for _ in raw.pipe(document.text for document in batch):
                    pass
            else:
                marker.mark(batch)
            seconds[which] = time.process_time() - began
        found.append((seconds["raw"], seconds["own"], sum(len(document.text) for document in batch)))
    return found[1:]  # the first one warms up


def prepare(folder: Path, corpus: CorpusConfig, *, workers: int) -> "subprocess.Popen[str]":
    settings = [
        "--config=configs/slm_tiny.py",
        f"--config.corpus.name={corpus.name}",
        f"--config.corpus.files={corpus.files}",
        f"--config.annotate.workers={workers}",
        f"--config.data.directory={folder / 'data'}",
    ]
    log = open(folder / "prepare.log", "w")  # noqa: SIM115 - the process has it
    command = [sys.executable, "-m", "lacy_jax.prepare", *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)


def watch(process: "subprocess.Popen[str]", record: Path) -> list[tuple[float, float, float, int]]:
    """Minutes, MiB of the command, most MiB of a child, and the number of children, every ten seconds to the end."""
    seen, began = [], time.monotonic()
    with open(record, "w") as out:
        while process.poll() is None:
            own, children = memory(process.pid)
            seen.append(((time.monotonic() - began) / 60, own, max(children, default=0.0), len(children)))
            print(*seen[-1], file=out, flush=True)
            time.sleep(10)
    return seen


def print_speed(pairs: Sequence[tuple[float, float, int]], packed: Packed, *, total: int, seconds: float) -> None:
    """What a core marks in a second, raw and by the annotator, and what the whole command did in `seconds` of CPU.

    total: characters of the corpus.
    """
    raw, own, characters = np.array(pairs).T
    low, middle, high = np.quantile(own / raw, [0.25, 0.5, 0.75])
    counts = [packed.statistics[split] for split in SPLITS]
    documents, tokens, factual = (sum(each[name] for each in counts) for name in ("documents", "tokens", "factual"))
    print(f"{documents:,} documents, {total:,} characters, {tokens:,} tokens, {factual / tokens:.1%} of them factual")
    speeds = {
        "raw nlp.pipe": characters.sum() / raw.sum(),
        "the annotator": characters.sum() / own.sum(),
        "start to packed records": total / seconds,
    }
    print("| | characters per CPU second | tokens | core-hours for 1e9 tokens | beside raw |\n|---|---|---|---|---|")
    for name, speed in speeds.items():
        rate = speed * tokens / total
        hours = 1e9 / rate / 3600
        print(f"| {name} | {speed:,.0f} | {rate:,.0f} | {hours:.1f} | {speeds['raw nlp.pipe'] / speed:.3f} |")
    print(f"| the paper | | | {PAPER} | |")
    print(
        f"{len(raw)} pairs in turns: the annotator takes {middle:.3f} times raw (half of them {low:.3f} to {high:.3f})"
    )


def print_memory(seen: Sequence[tuple[float, float, float, int]]) -> None:
    """The most memory that the command and one of its children held, in each tenth of the time."""
    print("| minutes | MiB of the command | most MiB of a child | children |\n|---|---|---|---|")
    for part in np.array_split(np.array(seen), 10):
        if len(part):
            minutes, own, child, children = part.max(axis=0)
            print(f"| to {minutes:.0f} | {own:,.0f} | {child:,.0f} | {children:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--embedded", action="store_true", help="vital_articles in place of a generated corpus")
    parser.add_argument("--paired", action="store_true", help="print the pairs alone, as the other process does")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if arguments.embedded:
        corpus = CorpusConfig()
        folder.mkdir(parents=True, exist_ok=True)
    else:
        corpus = CorpusConfig(name="jsonl", files=str(folder / "dolma" / "*.json.gz"))
        if not (folder / "dolma").exists():
            write_corpus(folder / "dolma", megabytes=arguments.megabytes)
    if arguments.paired:
        print(json.dumps(paired(spread(corpus, count=arguments.pairs + 1))))
        return
    pairs = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.prepare_corpus", *sys.argv[1:], "--paired"],
        env={
            **os.environ,
            "OPENBLAS_NUM_THREADS": "1",
        },  # as of a process that marks: waiting threads use CPU time, too
        stdout=subprocess.PIPE,
        text=True,
    )
    process = prepare(folder, corpus, workers=arguments.workers)
    seen = watch(process, folder / "memory.txt")
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)  # of `process` and its own; `pairs` is waited for below
    if process.returncode:
        raise SystemExit(f"lacy_jax.prepare ended with {process.returncode}: see {folder / 'prepare.log'}")
    assert process.stdout is not None
    packed = open_elsewhere(process.stdout.read().split()[-1], expected={}, progress=lambda *_: None).packed
    total = sum(len(document.text) for document in read_documents(corpus))
    print_speed(json.loads(pairs.communicate()[0]), packed, total=total, seconds=spent.ru_utime + spent.ru_stime)
    print_memory(seen)


def spread(corpus: CorpusConfig, *, count: int) -> list[list[Document]]:
    """`count` batches of 100,000 characters, or all of fewer, from all over the corpus."""
    batches = sum(1 for _ in document_batches(read_documents(corpus)))
    step = max(1, batches // count)
    return [batch for number, batch in enumerate(document_batches(read_documents(corpus))) if number % step == 0][
        :count
    ]


if __name__ == "__main__":
    answered(main)
