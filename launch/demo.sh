#!/usr/bin/env bash
# The whole path on the embedded corpus: annotate, tokenize, pack, pretrain, cascade, report. See README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

case "$*" in "" | --dry-run) ;; *) echo "usage: launch/demo.sh [--dry-run]" >&2 && exit 2 ;; esac
workdir="runs/slm_tiny"
commands=(
  "python -m lacy_jax.main --config=configs/slm_tiny.py --workdir=$workdir"
  "python -m lacy_jax.generate --checkpoint=$workdir --partner=documents --budget=0.22 --prompts_file=launch/demo_prompts.txt"
)
for command in "${commands[@]}"; do
  echo "\$ $command"
  [ "${1:-}" = "--dry-run" ] || $command
done
