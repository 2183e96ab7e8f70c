#!/usr/bin/env bash
# Runs the main command on every worker of an existing TPU VM pod (or single TPU VM). See usage below.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: launch/tpu_vm.sh --name=TPU --zone=ZONE [--project=PROJECT] [--dry-run] -- --config=FILE --workdir=PATH [flags]

Copies the committed state of this repository to every worker, installs it there, and starts
`python -m lacy_jax.main <what follows -->` on all of them at once. Run it again to go on after an interruption:
what is installed is kept, and training continues from its last checkpoint.

  --name, --zone   the TPU VM, as `gcloud compute tpus tpu-vm list` shows it
  --project        the Google Cloud project (default: gcloud's own)
  --dry-run        print every command, run none

The workers share no disk, so on a pod --workdir (and --config.data.packed, where `python -m lacy_jax.prepare` made the
data) must lie in a bucket: gs://... The run lives as long as this command: start it inside tmux or screen.

example: launch/tpu_vm.sh --name=pod-1 --zone=us-central2-b -- --config=configs/slm_334m.py --workdir=gs://my-runs/slm_334m
USAGE
}

fail() {
  echo "tpu_vm.sh: $1 (launch/tpu_vm.sh --help)" >&2
  exit 2
}

# One word of a command as a shell would have to be given it.
quote() {
  if [[ "$1" =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
    printf '%s' "$1"
  else
    printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
  fi
}

join() {
  local line="" word
  for word in "$@"; do line+="${line:+ }$(quote "$word")"; done
  printf '%s' "$line"
}

run() {
  echo "\$ $(join "$@")"
  [[ -n "$dry_run" ]] || "$@"
}

name="" zone="" project="" dry_run=""
while [[ $# -gt 0 && "$1" != "--" ]]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --dry-run) dry_run=yes ;;
    -h | --help) usage && exit 0 ;;
    *) fail "unknown argument '$1'; flags of the main command follow --" ;;
  esac
  shift
done
[[ -n "$name" ]] || fail "--name is missing"
[[ -n "$zone" ]] || fail "--zone is missing"
[[ $# -gt 1 ]] || fail "the main command's flags are missing after --"
shift
[[ " $* " == *" --config="* ]] || fail "--config=FILE is missing after --"
[[ " $* " == *" --workdir="* ]] || fail "--workdir=PATH is missing after --"

cd "$(dirname "$0")/.."
where=("--zone=$zone" --worker=all)
[[ -z "$project" ]] || where+=("--project=$project")
archive="${TMPDIR:-/tmp}/lacy_jax.tar.gz"

# Only the code folder is replaced: the environment and what runs left behind stay. uv brings Python 3.11 where the
# image has an older one, and does nothing where all is installed.
# shellcheck disable=SC2016  # $HOME is the worker's
setup='set -eu; cd "$HOME"; rm -rf lacy_jax; mkdir -p lacy_jax lacy_jax_runs; tar -xzf lacy_jax.tar.gz -C lacy_jax
ln -s ../lacy_jax_runs lacy_jax/runs; cd lacy_jax
PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
uv="$HOME/.local/bin/uv"; "$uv" venv --quiet --allow-existing --python 3.11 ../lacy_jax_venv
"$uv" pip install --quiet --python ../lacy_jax_venv/bin/python -r requirements.txt "jax[tpu]" gcsfs'
# shellcheck disable=SC2016
train='cd "$HOME/lacy_jax" && exec ../lacy_jax_venv/bin/'"$(join python -m lacy_jax.main --distributed=on "$@")"

if [[ -n "$(git status --porcelain --untracked-files=no)" ]]; then
  echo "tpu_vm.sh: uncommitted changes are not copied" >&2
fi
run git archive --format=tar.gz "--output=$archive" HEAD
run gcloud compute tpus tpu-vm scp "$archive" "$name:lacy_jax.tar.gz" "${where[@]}"
run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--command=$setup"
run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--command=$train"
