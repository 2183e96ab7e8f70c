#!/usr/bin/env bash
# Makes the fixtures of this folder with the code of commit 60e64f2, and with no other.
#
#     bash make.sh CHECKOUT PYTHON OUT
#
# CHECKOUT: a checkout of 60e64f2 (git worktree add --detach ../base 60e64f2). PYTHON: an interpreter with its
# requirements. OUT: a folder that does not exist yet. The inputs (config.py, study.py, corpus.jsonl, spans.jsonl) lie
# beside this script. All commands run in a scratch folder, so all paths in what they write are relative.
set -euo pipefail
checkout=$(realpath "$1") python=$(realpath --no-symlinks "$2") out=$(realpath -m "$3") here=$(dirname "$(realpath "$0")")
[ "$(git -C "$checkout" rev-parse --short=7 HEAD)" = 60e64f2 ] || { echo "$checkout is not at 60e64f2" >&2; exit 2; }
git -C "$checkout" diff --quiet HEAD || { echo "$checkout has changes" >&2; exit 2; }
[ ! -e "$out" ] || { echo "$out exists" >&2; exit 2; }

work=$(mktemp -d)
cp "$here"/{config.py,study.py,corpus.jsonl,spans.jsonl} "$work"
cp -r "$checkout/configs" "$work/configs"
cd "$work"
export PYTHONPATH=$checkout XLA_FLAGS="" JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 PYTHONDONTWRITEBYTECODE=1
unset JAX_COMPILATION_CACHE_DIR
"$python" -c "import lacy_jax, sys; sys.exit(not lacy_jax.__file__.startswith('$checkout/'))"
set -x

# data/, run/, export/
"$python" -m lacy_jax.prepare --config=config.py
"$python" -m lacy_jax.main --config=config.py --workdir=run
"$python" -m lacy_jax.export --checkpoint=run --out=export

# A copy of run/, trained 8 steps further.
mkdir longer
cp -r run longer/run
"$python" -m lacy_jax.main --config=config.py --workdir=longer/run --config.training.steps=308 --config.training.log_every=1

# study/
"$python" -m lacy_jax.evaluate --study=study.py --workdir=study --workers=1

# scores.json, resumed.json, study.json
"$python" - <<'EOF'
import base64
import hashlib
import importlib.metadata
import json
import math
import platform

import jax
import numpy as np

import lacy_jax
from lacy_jax.cascade.engine import Engine, encode_text
from lacy_jax.evals.scores import estimate
from lacy_jax.evals.study.page import COLUMNS, knowledge_rows, main_rows
from lacy_jax.evals.study.plan import load_study
from lacy_jax.evals.study.results import read_results
from lacy_jax.training.metrics import read_metrics

TEXTS = ("Orlo Vence", "The bells of ", "Port Amber is a town by the sea, and the café “Ἥλιος” sells 東 tea. In 17")
MADE_WITH = {
    "commit": "60e64f2",
    "machine": platform.machine(),
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "python": platform.python_version(),
    "versions": {
        name: importlib.metadata.version(name)
        for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "sentencepiece", "tensorflow-datasets", "numpy")
    },
}


def leaves(tree):
    """Path -> shape, sha256 of the bytes, and the values: base64 of little-endian float32 in C order."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        values = np.asarray(leaf)
        assert values.dtype == np.float32
        data = values.astype("<f4").tobytes()
        found[jax.tree_util.keystr(path, simple=True, separator="/")] = {
            "shape": list(values.shape),
            "sha256": hashlib.sha256(data).hexdigest(),
            "float32": base64.b64encode(data).decode(),
        }
    return found


def lines(value, depth):
    """JSON; down to `depth` levels an entry a line."""
    if not depth or not isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[\n" + ",\n".join(lines(each, depth - 1) for each in value) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {lines(each, depth - 1)}" for key, each in value.items()) + "\n}"


def write(name, made, depth):
    with open(name, "w", encoding="utf-8") as file:
        file.write(lines({"made_with": MADE_WITH, **made}, depth) + "\n")


slm = lacy_jax.load("run")
texts = []
for text in TEXTS:
    ids = encode_text(slm.tokenizer, text)
    steps = Engine(slm).session(1).steps({0: ids}, ahead=1)[0]
    completion = lacy_jax.Cascade(slm, None).generate([text], max_new_tokens=8)[0]
    prefixes = [Engine(slm).session(1).steps({0: ids[:length]})[0][0] for length in range(1, len(ids))]
    texts.append(
        {
            "text": text,
            "ids": ids,
            "step": steps[0]._asdict(),
            "greedy": completion.text,
            "finish": completion.finish,
            "generated": completion.counts.generated,
            # Of every shorter prefix of `ids`, in the order of the fields of `step`.
            "prefix_steps": [list(step) for step in prefixes],
        }
    )
write("scores.json", {"step": slm.step, "texts": texts}, depth=3)

longer = lacy_jax.load("longer/run")
records = [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second", "mfu")} for r in read_metrics("longer/run")]
write("resumed.json", {
    "from_step": slm.step,
    "step": longer.step,
    "command": "python -m lacy_jax.main --config=config.py --workdir=run --config.training.steps=308 --config.training.log_every=1",
    "train": [r for r in records if r["split"] == "train" and r["step"] > slm.step],
    "validation": [r for r in records if r["split"] == "validation" and r["step"] > slm.step],
    "params_before": {path: leaf["sha256"] for path, leaf in leaves(slm.params).items()},
    "params": leaves(longer.params),
}, depth=2)

study = load_study("study.py")
results = read_results(study, workdir="study")
judged = {}
for (arm, seed), run in results.runs.items():
    for (decode, budget), people in run.judged.items():
        values = {name: float(estimate(name, people)) for name in COLUMNS}
        judged[f"{arm}/seed{seed}/{decode}-{budget:g}"] = {k: None if math.isnan(v) else v for k, v in values.items()}
write("study.json", {
    "finished": [f"{arm}/seed{seed}" for arm, seed in results.runs],
    "scores": judged,
    "main_rows": [[row.name, *map(str, row.cells)] for row in main_rows(results)],
    "knowledge_rows": [[row.name, *map(str, row.cells)] for row in knowledge_rows(results)],
}, depth=2)
EOF

# What is kept. Of the study: what tells that it is finished and what its page is made of.
set +x
cd "$work"
mkdir -p "$out"
cp -r config.py study.py corpus.jsonl spans.jsonl data run export scores.json resumed.json study.json "$out"
cp "$here/make.sh" "$out"
rm -rf "$out/run/tensorboard" "$out/run/report.html"
for evaluation in study/*/seed0/closed_world; do
    mkdir -p "$out/$evaluation"
    cp "$evaluation"/{done,settings.json,tokens.json,*.jsonl} "$out/$evaluation"
done
find "$out" -name .lock -delete
find "$out" -type d -empty -delete
chmod -R u+w "$out"
echo "everything, with what is not kept: $work"
du -sh "$out"
