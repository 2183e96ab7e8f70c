#!/usr/bin/env bash
# What this project wants to know of one GPU, in ten minutes, without internet. docs/performance.md has its figures.
#
#   bash benchmarks/gpu.sh OUT            on a machine with one NVIDIA GPU, lacy_jax[cuda] and, for the peers, PyTorch
#   SIZE=tiny bash benchmarks/gpu.sh OUT  every part once, at sizes that say nothing about speed: a rehearsal on a CPU
#
# Each part writes OUT/PART.txt as it goes, and OUT/done lists the parts that ended well. Started again, it runs only
# the others. A part that fails or takes too long does not keep the next from running; the status is 1 then.
# Settings, from the environment:
#   LIMIT=600      seconds for everything
#   PARTS="..."    which parts, of: correctness kernels steps_150m steps_334m peer_150m peer_334m
#                  peer_334m_32 decode cascade compile train study
#   VARIANTS="..." of benchmarks.gpu.steps for steps_150m, with ; between them; all and a profile if it is not set
#   BATCHES=1,8,64 rows of decode and cascade
#   WHEELS=FOLDER  wheels that are installed first, for a machine without internet (below OUT/site)
#   PACKED=FOLDER  prepared data for `train`: the version folder of a packed dataset (docs/data_format.md)
#   PYTHON=python3
# `study` takes what is left of LIMIT, and hours: with more time it goes on. It needs lacy_jax[prepare] and spaCy's model.
set -uo pipefail

[ $# = 1 ] || { echo "usage: [SETTING=VALUE ...] bash benchmarks/gpu.sh OUT" >&2; exit 2; }
mkdir -p "$1" && out=$(cd "$1" && pwd) && cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3} limit=${LIMIT:-600} size=${SIZE:-full} failed=""
every="correctness kernels steps_150m steps_334m peer_150m peer_334m peer_334m_32 decode cascade compile train study"
slow=1 parts=" ${PARTS:-$every} "
[ -z "${PACKED:-}" ] || PACKED=$(cd "$PACKED" && pwd)

if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$out/site" "$WHEELS"/*.whl || exit 2
  export PYTHONPATH="$out/site"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# What one part has compiled the next takes from here. Memory is taken as it is needed: PyTorch wants some too.
export JAX_COMPILATION_CACHE_DIR="$out/compiled" XLA_PYTHON_CLIENT_PREALLOCATE=false

# When each line came, in seconds from the start: of a part that was ended it shows what it waited for.
stamped() { while IFS= read -r line; do printf '%4d  %s\n' "$SECONDS" "$line"; done; }

# part NAME SECONDS COMMAND...: runs it once, for at most so long.
part() {
  local name=$1 most=$((slow * $2)) left=$((limit - SECONDS)) began=$SECONDS status
  shift 2
  [[ $parts == *" $name "* ]] || return 0
  grep -qsx "$name" "$out/done" && { echo "$name: done before"; return 0; }
  [ "$left" -ge 20 ] || { echo "$name: no time left"; failed+=" $name"; return 0; }
  echo "== $name: $*"
  timeout --signal=INT --kill-after=5 $((left < most ? left : most)) "$@" 2>&1 | stamped | tee "$out/$name.txt"
  status=${PIPESTATUS[0]}
  echo "== $name: status $status after $((SECONDS - began)) s, $SECONDS s in all"
  if [ "$status" = 0 ]; then echo "$name" >> "$out/done"; else failed+=" $name"; fi
}

if [ "$size" = tiny ]; then
  export JAX_PLATFORMS=cpu
  slow=100 # a rehearsal may be run on a slow machine: LIMIT alone ends it
  shape=(--set model.layers=2 --set model.width=64 --set model.heads=2 --set model.context=64 --set data.batch_size=4
    --set model.attention=xla)
  small=(--config configs/slm_tiny.py "${shape[@]}") large=("${small[@]}") fast=() rounds=(--rounds 2 --repeat 1)
  few=(--variants "ntp;lacy;lacy, documents apart") all=("${few[@]}") larger=()
  kernels=(--batch 1 --heads 2 --time 128 "${rounds[@]}") compiled=(--config configs/slm_tiny.py "${shape[@]}")
  decode=(--batches "1,2" --length 16 --rounds 1) cascade=("${decode[@]}")
  train=(--config.training.steps=4 --config.corpus.max_documents=1000)
else
  small=(--config configs/slm_150m.py --set data.batch_size=32) large=(--config configs/slm_334m.py --set data.batch_size=16)
  larger=(--set data.batch_size=32) fast=(--set model.remat=none) rounds=(--rounds 7 --repeat 3)
  compiled=() all=(--profile lacy) few=(--variants "ntp;lacy;lacy, scan of layers;lacy, documents apart") kernels=()
  decode=(--slm configs/slm_150m.py --batches "${BATCHES:-1,8,64}" --rounds 3)
  # 32 tokens: in the partner's own tokens longer texts would outgrow the shortest cache, and all compile once more.
  cascade=(--slm configs/slm_150m.py --partner configs/slm_334m.py --batches "${BATCHES:-1,8,64}" --length 32 --rounds 2)
  [ -z "${VARIANTS:-}" ] || all=(--variants "$VARIANTS")
  train=(--config.model.layers=12 --config.model.width=512 --config.model.heads=8 --config.model.compute_dtype=bfloat16
    --config.data.batch_size=64 --config.training.steps=600)
fi

part correctness 180 "$python" -m benchmarks.gpu.correctness
part kernels 60 "$python" -m benchmarks.gpu.kernels "${kernels[@]}"
part steps_150m 150 "$python" -m benchmarks.gpu.steps "${small[@]}" "${rounds[@]}" "${all[@]}"
part steps_334m 120 "$python" -m benchmarks.gpu.steps "${large[@]}" "${rounds[@]}" "${few[@]}"
part peer_150m 120 "$python" -m benchmarks.step "${small[@]}" "${fast[@]}" "${rounds[@]}"
part peer_334m 150 "$python" -m benchmarks.step "${large[@]}" "${fast[@]}" "${rounds[@]}"
part peer_334m_32 150 "$python" -m benchmarks.step "${large[@]}" "${larger[@]}" "${fast[@]}" "${rounds[@]}"
part decode 120 "$python" -m benchmarks.decode --budgets 0 "${decode[@]}"
part cascade 150 "$python" -m benchmarks.decode --budgets 0.22 "${cascade[@]}"
part compile 90 "$python" -m benchmarks.gpu.compile "${compiled[@]}"
part train 150 "$python" -m lacy_jax.main --config=configs/slm_tiny.py --workdir="$out/train" "${train[@]}" \
  ${PACKED:+--config.data.packed="$PACKED"}
if [ "$size" = full ]; then
  part study $((limit - SECONDS)) \
    "$python" -m lacy_jax.evaluate --study=configs/study_biographies.py:full --workdir="$out/study"
fi

[ -z "$failed" ] || { echo "not done:$failed"; exit 1; }
