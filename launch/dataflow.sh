#!/usr/bin/env bash
# Prepares a corpus on Google Cloud Dataflow: its machines mark, all else happens here. See usage below.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/lib.sh

usage() {
  cat <<'USAGE'
usage: launch/dataflow.sh --project=P --region=R --bucket=NAME --image=IMAGE --config=FILE [--config.<section>.<setting>=...] [options] [--dry-run]

Starts `python -m lacy_jax.prepare` here, which reads the corpus, has Dataflow mark it, and puts the dataset together in
config.data.directory on this machine. If it is killed, the same command goes on from the parts that are marked.

  --project, --region  of Google Cloud
  --bucket             its name; parts lie in gs://NAME/lacy_jax/parts while they are marked, Beam's own files in gs://NAME/lacy_jax/temp
  --image              made from launch/Dockerfile.beam, in a registry that the project reads
  --workers=N          the most machines (default 16)
  --machine=TYPE       (default n2-standard-8)
  --python=PROGRAM     has lacy_jax[beam] and apache-beam[gcp] in the image's versions (default python)
  --dry-run            print the command, do not run it
USAGE
}

project="" region="" bucket="" image="" config="" workers=16 machine=n2-standard-8 python=python flags=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --project=*) project="${1#*=}" ;;
    --region=*) region="${1#*=}" ;;
    --bucket=*) bucket="${1#*=}" ;;
    --image=*) image="${1#*=}" ;;
    --workers=*) workers="${1#*=}" ;;
    --machine=*) machine="${1#*=}" ;;
    --python=*) python="${1#*=}" ;;
    --dry-run) dry_run=yes ;;
    -h | --help) usage && exit 0 ;;
    --config=*) config="$1" ;;
    --config.*=*) flags+=("$1") ;;
    *) fail "unknown argument '$1'" ;;
  esac
  shift
done
check --project "$project" "[a-z][a-z0-9:.-]*"
check --region "$region" "[a-z]+-[a-z]+[0-9]+"
check --bucket "$bucket" "[a-z0-9][a-z0-9._-]*"
check --image "$image" "[A-Za-z0-9][A-Za-z0-9._:/@-]*"
check --machine "$machine" "[a-z0-9-]+"
number --workers "$workers"
[[ -n "$config" ]] || fail "--config=FILE is missing"

# One thread for each of Beam's processes: there is one for each core, and each has one process that marks.
options="--project=$project --region=$region --temp_location=gs://$bucket/lacy_jax/temp"
options+=" --sdk_container_image=$image --sdk_location=container --number_of_worker_harness_threads=1"
options+=" --machine_type=$machine --max_num_workers=$workers --experiments=use_runner_v2"
run "$python" -m lacy_jax.prepare "$config" ${flags[@]+"${flags[@]}"} --beam_runner=DataflowRunner \
  "--beam_parts=gs://$bucket/lacy_jax/parts" "--beam_options=$options"
