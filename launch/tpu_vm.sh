#!/usr/bin/env bash
# A run on TPU VMs, from asking for the machines to giving them back. See usage below and docs/launch.md.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/lib.sh

usage() {
  cat <<'USAGE'
usage: launch/tpu_vm.sh STAGE --name=TPU --zone=ZONE [options] [--dry-run] [-- --config=FILE --workdir=PATH [flags]]

  create   asks for the machines (a queued resource) and waits until they are there: --type, --version
  setup    copies the committed state of this repository to every worker and installs it there
  run      starts `python -m lacy_jax.main <what follows -->` on every worker; it outlives this command
  watch    shows the state of every worker and follows worker 0's log; ends with the run's status
  stop     lets the run save and end (status 143); `run` goes on from there
  resume   after a preemption: asks again if the machines are gone (as create), then setup and run
  delete   gives the machines back; gcloud asks first

  --name, --zone     of the queued resource and of its TPU VM; setup, run, watch and stop take any TPU VM
  --type, --version  e.g. v5litepod-256 and v2-alpha-tpuv5-lite, v4-64 and tpu-ubuntu2204-base
  --spot             cheaper machines that can be preempted
  --slices=N         several slices of that type (default 1); needs --config.mesh.slice=N
  --data=gs://...    setup, resume: a copy of the folder runs/data that `python -m lacy_jax.prepare` filled; every worker
                     gets it as its own runs/data
  --project          the Google Cloud project (default: gcloud's own)
  --dry-run          print every command, run none

Workers share no disk: on a pod, and where it must outlive the machines, --workdir must lie in a bucket (gs://...).
USAGE
}

# Lines that start with # in a dry run say what a real run waits for.
await() {
  local describe=(gcloud compute tpus queued-resources describe "$name" "${where[@]}" "--format=value(state.state)")
  state="$1"
  if [[ -n "$dry_run" ]]; then
    run "${describe[@]}"
    echo "# ... every 30 s until ACTIVE, SUSPENDED or FAILED; as if $state:"
    return
  fi
  while true; do
    state=$("${describe[@]}")
    echo "$name: $state"
    case "$state" in ACTIVE | SUSPENDED | FAILED) return ;; esac
    sleep "${POLL_SECONDS:-30}"
  done
}

create() {
  local nodes=("--node-id=$name")
  [[ "$slices" = 1 ]] || nodes=("--node-prefix=$name" "--node-count=$slices")
  run gcloud compute tpus queued-resources create "$name" "${nodes[@]}" "--accelerator-type=$type" \
    "--runtime-version=$version" ${spot:+--spot} "${where[@]}"
  await ACTIVE
  [[ "$state" = ACTIVE ]] || fail "the request ended as $state: see gcloud compute tpus queued-resources describe $name"
}

on_all() { run "${tpu[@]}" ssh "$name" "${all[@]}" "${where[@]}" "--command=$1"; }

# Only the code folder is replaced: the environment and what runs left behind stay.
setup() {
  local archive="${TMPDIR:-/tmp}/lacy_jax.tar.gz"
  [[ -z "$(git status --porcelain --untracked-files=no)" ]] || echo "tpu_vm.sh: uncommitted changes are not copied" >&2
  run git archive --format=tar.gz "--output=$archive" HEAD
  run "${tpu[@]}" scp "$archive" "$name:lacy_jax.tar.gz" "${all[@]}" "${where[@]}"
  on_all 'flock --nonblock lacy_jax.lock rm -rf lacy_jax || { echo "a run is under way: stop it first" >&2; exit 1; }
mkdir lacy_jax && tar -xzf lacy_jax.tar.gz -C lacy_jax && exec lacy_jax/launch/tpu_worker.sh setup'"${data:+ $(quote "$data")}"
}

case "${1:-}" in
  create | setup | run | watch | stop | resume | delete) stage="$1" && shift ;;
  -h | --help) usage && exit 0 ;;
  *) fail "'${1:-}' is no stage: create, setup, run, watch, stop, resume, delete" ;;
esac
name="" zone="" project="" type="" version="" spot="" data="" slices=1
while [[ $# -gt 0 && "$1" != "--" ]]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --slices=*) slices="${1#*=}" ;;
    --data=*) data="${1#*=}" ;;
    --spot) spot=yes ;;
    --dry-run) dry_run=yes ;;
    *) fail "unknown argument '$1'; flags of the main command follow --" ;;
  esac
  shift
done
[[ $# -eq 0 ]] || shift
check --name "$name" '[a-z]([a-z0-9-]{0,61}[a-z0-9])?'
check --zone "$zone" '[a-z0-9-]+'
[[ -z "$data" || "$data" = gs://* ]] || fail "--data=$data: workers copy it from a bucket, give gs://..."
number --slices "$slices"
case "$stage" in create | resume)
  [[ -n "$type" ]] || fail "--type is missing"
  [[ -n "$version" ]] || fail "--version is missing" ;;
esac
case "$stage" in
  run | resume) check_flags "$([[ "$slices" = 1 ]] && echo own || echo bucket)" "$slices" "$@" ;;
  *) [[ $# -eq 0 ]] || fail "$stage takes no flags of the main command" ;;
esac

where=("--zone=$zone")
[[ -z "$project" ]] || where+=("--project=$project")
tpu=(gcloud compute tpus tpu-vm) all=(--worker=all) first=(--worker=0)
if [[ "$slices" != 1 ]]; then
  tpu=(gcloud compute tpus queued-resources) all=(--node=all --worker=all) first=(--node=0 --worker=0)
fi
start="lacy_jax/launch/tpu_worker.sh $(join start "$@")"
delete=(gcloud compute tpus queued-resources delete "$name" --force "${where[@]}")

case "$stage" in
  create) create ;;
  setup) setup ;;
  run) on_all "$start" ;;
  watch)
    on_all "lacy_jax/launch/tpu_worker.sh state"
    run "${tpu[@]}" ssh "$name" "${first[@]}" "${where[@]}" "--command=lacy_jax/launch/tpu_worker.sh follow"
    ;;
  stop) on_all "lacy_jax/launch/tpu_worker.sh stop" ;;
  resume)
    await SUSPENDED
    if [[ "$state" != ACTIVE ]]; then
      run "${delete[@]}" --quiet
      create
    fi
    setup
    on_all "$start"
    ;;
  delete) run "${delete[@]}" ;;
esac
