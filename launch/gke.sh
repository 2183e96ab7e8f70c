#!/usr/bin/env bash
# A run on TPU slices of a Google Kubernetes Engine cluster, as a JobSet (launch/gke.yaml). See usage below.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/lib.sh

usage() {
  cat <<'USAGE'
usage: launch/gke.sh ACTION --name=NAME [--namespace=NAMESPACE] [options] [--dry-run] [-- --config=FILE --workdir=PATH [flags]]

  apply    starts `python -m lacy_jax.main <what follows -->` in every pod: --image, --bucket, --accelerator, --topology
  watch    shows the state of the run and its pods and follows the first pod's log
  delete   ends the run (it saves first) and frees its machines; apply with the same flags goes on from there

  --image            made from launch/Dockerfile, with ACCELERATOR=tpu
  --bucket           its name; all it holds can be read under /data, as by --config.data.packed=/data/...
  --accelerator      e.g. tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice
  --topology         of one slice, e.g. 16x16 or 4x4x4
  --slices=N         (default 1); needs --config.mesh.slice=N
  --chips=N          on each host (default 4; a single host may have 1 or 8)
  --restarts=N       after a preemption or a failure (default 10)
  --service-account  of Kubernetes, which may write to the bucket (default: default)
  --spot             cheaper machines that can be preempted
  --dry-run          print the manifest and every command, run none

Pods share no disk: --workdir must lie in a bucket (gs://...). The cluster needs JobSet (https://jobset.sigs.k8s.io), the
Cloud Storage FUSE driver and a node pool of that topology for each slice.
USAGE
}

# A value as a double-quoted YAML string; Kubernetes itself reads $(NAME) as a variable and $$ as a dollar.
quoted() {
  [[ "$1" != *[[:cntrl:]]* ]] || fail "a flag of the main command has a line break or another control character"
  local value="${1//\\/\\\\}"
  value="${value//\"/\\\"}"
  printf '"%s"' "${value//\$/\$\$}"
}

fill() {
  local hole="{{$1}}"
  [[ "$manifest" = *"$hole"* ]] || fail "gke.yaml has no $hole"
  manifest=${manifest//"$hole"/"$2"}
}

render() {
  local chips_in_slice=1 size args="" flag
  for size in ${topology//x/ }; do chips_in_slice=$((chips_in_slice * size)); done
  ((chips_in_slice % chips == 0)) || fail "--topology=$topology has $chips_in_slice chips, no multiple of --chips=$chips"
  for flag in --distributed=on "$@"; do args+="${args:+$'\n'                    }- $(quoted "$flag")"; done
  manifest=$(< launch/gke.yaml)
  fill NAME "$name"
  fill NAMESPACE "$namespace"
  fill RESTARTS "$restarts"
  fill SLICES "$slices"
  fill HOSTS "$((chips_in_slice / chips))"
  fill SERVICE_ACCOUNT "$service_account"
  fill ACCELERATOR "$accelerator"
  fill TOPOLOGY "$topology"
  fill CAPACITY "$capacity"
  fill IMAGE "$image"
  fill BUCKET "$bucket"
  fill CHIPS "$chips"
  [[ "${manifest/"{{ARGS}}"/}" != *"{{"* ]] || fail "gke.yaml has a place that nothing fills"
  fill ARGS "$args"
}

case "${1:-}" in
  apply | watch | delete) action="$1" && shift ;;
  -h | --help) usage && exit 0 ;;
  *) fail "'${1:-}' is no action: apply, watch, delete" ;;
esac
name="" namespace=default image="" bucket="" accelerator="" topology="" slices=1 chips=4 restarts=10 service_account=default
capacity="# without --spot: on demand, or reserved"
while [[ $# -gt 0 && "$1" != "--" ]]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --namespace=*) namespace="${1#*=}" ;;
    --image=*) image="${1#*=}" ;;
    --bucket=*) bucket="${1#*=}" ;;
    --accelerator=*) accelerator="${1#*=}" ;;
    --topology=*) topology="${1#*=}" ;;
    --slices=*) slices="${1#*=}" ;;
    --chips=*) chips="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --service-account=*) service_account="${1#*=}" ;;
    --spot) capacity='cloud.google.com/gke-spot: "true"' ;;
    --dry-run) dry_run=yes ;;
    *) fail "unknown argument '$1'; flags of the main command follow --" ;;
  esac
  shift
done
[[ $# -eq 0 ]] || shift
label='[a-z]([a-z0-9-]{0,38}[a-z0-9])?' # the pods' names, which are longer, must stay below 64 characters
check --name "$name" "$label"
check --namespace "$namespace" "$label"
[[ "$action" = apply || $# -eq 0 ]] || fail "$action takes no flags of the main command"

pods="jobset.sigs.k8s.io/jobset-name=$name"
case "$action" in
  apply)
    # What a manifest may hold without quotes.
    check --image "$image" '[A-Za-z0-9][A-Za-z0-9._:/@-]*'
    check --bucket "$bucket" '[a-z0-9][a-z0-9._-]*'
    check --accelerator "$accelerator" '[a-z][a-z0-9-]*'
    check --topology "$topology" '[1-9][0-9]*(x[1-9][0-9]*){1,2}'
    check --service-account "$service_account" '[a-z0-9]([a-z0-9.-]*[a-z0-9])?'
    number --slices "$slices"
    number --chips "$chips"
    number --restarts "$restarts"
    check_flags bucket "$slices" "$@"
    render "$@"
    printf '%s\n' "$ kubectl apply --filename=- <<'MANIFEST'" "$manifest" MANIFEST
    [[ -n "$dry_run" ]] || kubectl apply --filename=- <<< "$manifest"
    ;;
  watch)
    run kubectl get jobset "$name" "--namespace=$namespace"
    run kubectl get pods "--namespace=$namespace" "--selector=$pods"
    run kubectl logs --follow --tail=40 "--namespace=$namespace" \
      "--selector=$pods,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
    ;;
  delete) run kubectl delete jobset "$name" "--namespace=$namespace" ;;
esac
