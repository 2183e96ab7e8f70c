#!/usr/bin/env bash
# Submits a run on GPU nodes of a slurm cluster, which goes on from its checkpoint at every time limit. See usage below.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/lib.sh

usage() {
  cat <<'USAGE'
usage: launch/slurm.sh --nodes=N --gpus=N --time=LIMIT [options] [sbatch's own flags] [--dry-run] -- --config=FILE --workdir=PATH [flags]

Starts `python -m lacy_jax.main <what follows -->` once for each GPU, from this folder, which all nodes must see.
Five minutes before the time limit the run saves and ends, and the job goes back into the queue, until the run is
finished. A run that fails is not started again; a node that fails is slurm's to replace (--requeue).

  --nodes, --gpus     nodes, and GPUs on each of them
  --time              as for sbatch, e.g. 24:00:00; at least ten minutes
  --python=PROGRAM    (default: .venv/bin/python, which `make venv` makes with an accelerator's jax added; in a container: python)
  --container=IMAGE   runs in this image (pyxis), made from launch/Dockerfile with ACCELERATOR=cuda13; this folder is mounted
  --mounts=FROM:TO,... further folders that the container sees, such as those of the work folder and the data
  --dry-run           print the command, do not run it
  --partition=..., --account=..., --cpus-per-task=..., any other --flag=value: sbatch's

The log is slurm-<job>.log in this folder. Stop for good: scancel JOB. Save and stop: scancel --signal=TERM JOB.
USAGE
}

nodes="" gpus="" time="" container="" mounts="" python="" sbatch_flags=()
while [[ $# -gt 0 && "$1" != "--" ]]; do
  case "$1" in
    --nodes=*) nodes="${1#*=}" ;;
    --gpus=*) gpus="${1#*=}" ;;
    --time=*) time="${1#*=}" ;;
    --python=*) python="${1#*=}" ;;
    --container=*) container="${1#*=}" ;;
    --mounts=*) mounts="${1#*=}" ;;
    --dry-run) dry_run=yes ;;
    -h | --help) usage && exit 0 ;;
    --config=* | --config.* | --workdir=*) fail "'$1' is a flag of the main command: those follow --" ;;
    --signal=*) fail "'$1': this script has slurm signal it five minutes before the limit, to save" ;;
    --*=*) sbatch_flags+=("$1") ;;
    *) fail "unknown argument '$1'; flags are given as --flag=value, those of the main command follow --" ;;
  esac
  shift
done
[[ $# -eq 0 ]] || shift
[[ -n "$nodes" ]] || fail "--nodes is missing"
[[ -n "$gpus" ]] || fail "--gpus is missing"
[[ -n "$time" ]] || fail "--time is missing"
number --nodes "$nodes"
number --gpus "$gpus"
# Less would be signalled as soon as it starts, and queued again for ever. 9, 9:59, 0:09:59: minutes, with seconds or not.
[[ ! "$time" =~ ^(0+:)?0*[0-9](:[0-9]+)?$ ]] || fail "--time=$time is less than ten minutes"
check_flags disk "" "$@"

# JAX gives the i-th task of a node its i-th GPU, so each task has to see all of them: no --gpus-per-task, no binding.
# Tasks end one after another when a run stops: the first must not have the others killed, who may still be saving.
step=(srun --gpu-bind=none --kill-on-bad-exit=0 --wait=120)
if [[ -n "$container" ]]; then
  step+=("--container-image=$container" "--container-mounts=$PWD:$PWD${mounts:+,$mounts}" "--container-workdir=$PWD" --no-container-entrypoint)
  python="${python:-python}"
else
  [[ -z "$mounts" ]] || fail "--mounts is for a --container"
  python="${python:-.venv/bin/python}"
  [[ -n "$dry_run" ]] || type -P "$python" > /dev/null || fail "there is no $python here: make venv, or give --python=PROGRAM"
fi
run sbatch --job-name=lacy_jax "--nodes=$nodes" "--ntasks-per-node=$gpus" "--gpus-per-node=$gpus" "--time=$time" \
  --signal=B:USR1@300 --requeue --open-mode=append --output=slurm-%j.log ${sbatch_flags[@]+"${sbatch_flags[@]}"} \
  launch/slurm_job.sh "${step[@]}" "$python" -m lacy_jax.main --distributed=on "$@"
