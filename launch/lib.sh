# shellcheck shell=bash
# Sourced by the launch scripts: commands are printed as they could be typed, and run unless dry_run is set.

dry_run=""

fail() {
  echo "${0##*/}: $1 (launch/${0##*/} --help)" >&2
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

# NAME VALUE PATTERN: what a name may look like.
check() {
  [[ -n "$2" ]] || fail "$1 is missing"
  [[ "$2" =~ ^$3$ ]] || fail "$1='$2' is not of the form $3"
}

# WHERE SLICES FLAGS...: what a run cannot do without. Its machines share a disk, have one of their `own` (whether it is
# one machine, this cannot know), or only a `bucket`. SLICES is empty where any number will do.
check_flags() {
  local where="$1" slices="$2" flag config="" workdir="" mesh_slices=1
  shift 2
  [[ $# -gt 0 ]] || fail "the main command's flags are missing after --"
  for flag in "$@"; do
    case "$flag" in
      --config=*) config="${flag#*=}" ;;
      --workdir=*) workdir="${flag#*=}" ;;
      --config.mesh.slice=*) mesh_slices="${flag#*=}" ;;
      --dry-run) fail "--dry-run comes before --: after it, it would be the main command's" ;;
      --distributed=*) fail "$flag: this script decides it for the processes" ;;
      --config.data.packed=*://* | --config.data.mixture=*://*)
        fail "$flag: prepared data is read from a disk, not from a bucket (docs/launch.md)"
        ;;
    esac
  done
  [[ -n "$config" ]] || fail "--config=FILE is missing after --"
  [[ -n "$workdir" ]] || fail "--workdir=PATH is missing after --"
  case "$where $workdir" in
    disk\ * | *://* | own\ /*) ;;
    own\ *) echo "${0##*/}: --workdir=$workdir is on each worker's own disk: on a pod, or where it must outlive the machine, give gs://..." >&2 ;;
    *) fail "--workdir=$workdir would be on each machine's own disk, and is lost with it: give gs://..." ;;
  esac
  [[ -z "$slices" || "$mesh_slices" = -1 || "$mesh_slices" = "$slices" ]] ||
    fail "--slices=$slices, but the run's mesh has $mesh_slices: give --config.mesh.slice=$slices after --"
}

number() {
  [[ "$2" =~ ^[1-9][0-9]*$ ]] || fail "$1=$2 must be a number from 1 on"
}
