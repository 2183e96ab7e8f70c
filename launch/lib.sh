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

# The main command's flags: what a run cannot do without. The first argument says what the machines share: a disk, or
# nothing; or `unknown`, which only warns.
check_flags() {
  local disk="$1" flag config="" workdir=""
  shift
  [[ $# -gt 0 ]] || fail "the main command's flags are missing after --"
  for flag in "$@"; do
    case "$flag" in
      --config=*) config="${flag#*=}" ;;
      --workdir=*) workdir="${flag#*=}" ;;
    esac
  done
  [[ -n "$config" ]] || fail "--config=FILE is missing after --"
  [[ -n "$workdir" ]] || fail "--workdir=PATH is missing after --"
  case "$disk $workdir" in
    disk\ * | *\ /* | *://*) ;;
    nothing\ *) fail "--workdir=$workdir lies on one machine only, and they share no disk: give gs://..." ;;
    *) echo "${0##*/}: --workdir=$workdir is on each worker's own disk: on a pod, or where a preemption must not lose it, give gs://..." >&2 ;;
  esac
}

number() {
  [[ "$2" =~ ^[1-9][0-9]*$ ]] || fail "$1=$2 must be a number from 1 on"
}
