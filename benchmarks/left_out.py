"""The embedded corpus in two parts, as JSON lines: articles that a model is adapted to and asked about, and all others.

    python -m benchmarks.left_out --out=runs/left_out
    python -m lacy_jax.adapt --model=MODEL.gguf --corpus='runs/left_out/asked.jsonl' --marks=answers \\
        --partner=documents:runs/left_out/others.jsonl --out=runs/smollm2_left_out
    python -m benchmarks.adapted --checkpoint=runs/smollm2_left_out --partner=documents:runs/left_out/others.jsonl

A partner that searches the others never has the article that a text is about. Articles are parted by the hash of their
id, as corpora are split; the held-out ones of an adaptation are among those that are asked about.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import split_of

ASKED = 0.5  # share of the articles

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, required=True)
out: Path = parser.parse_args().out
out.mkdir(parents=True, exist_ok=True)
parts: dict[str, list[str]] = {"validation": [], "train": []}
for document in read_documents(CorpusConfig()):
    parts[split_of(document.id, validation_share=ASKED)].append(json.dumps(dataclasses.asdict(document)))
for split, name in (("validation", "asked"), ("train", "others")):
    (out / f"{name}.jsonl").write_text("\n".join(parts[split]) + "\n")
    print(f"{out / name}.jsonl: {len(parts[split]):,} articles")
