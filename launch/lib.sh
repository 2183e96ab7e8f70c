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

# WHERE FLAGS...: what a run cannot do without. Its machines share a disk, have one of their `own` (whether it is one
# machine, this cannot know), or only a `bucket`.
check_flags() {
  local where="$1" flag config="" workdir=""
  shift
  [[ $# -gt 0 ]] || fail "the main command's flags are missing after --"
  for flag in "$@"; do
    case "$flag" in
      --config=*) config="${flag#*=}" ;;
      --workdir=*) workdir="${flag#*=}" ;;
      --config.data.packed=*://*) fail "$flag: prepared data is read from a disk, not from a bucket (docs/launch.md)" ;;
    esac
  done
  [[ -n "$config" ]] || fail "--config=FILE is missing after --"
  [[ -n "$workdir" ]] || fail "--workdir=PATH is missing after --"
  case "$where $workdir" in
    disk\ * | *://* | own\ /*) ;;
    own\ *) echo "${0##*/}: --workdir=$workdir is on each worker's own disk: on a pod, or where it must outlive the machine, give gs://..." >&2 ;;
    *) fail "--workdir=$workdir would be on each machine's own disk, and is lost with it: give gs://..." ;;
  esac
}

number() {
  [[ "$2" =~ ^[1-9][0-9]*$ ]] || fail "$1=$2 must be a number from 1 on"
}
