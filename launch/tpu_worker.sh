#!/usr/bin/env bash
# What launch/tpu_vm.sh has each worker of a TPU VM do, over ssh: setup [DATA] | start FLAGS | state | follow | stop.
# Whoever holds lacy_jax.lock runs; nothing here depends on the connection that started it.
set -euo pipefail
cd "$HOME"

case "${1:-}" in
  setup)
    mkdir -p lacy_jax_runs/data
    ln -sfn ../lacy_jax_runs lacy_jax/runs
    # uv brings Python 3.11 where the image has an older one, and does nothing where all is installed.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
    uv="$HOME/.local/bin/uv"
    "$uv" venv --quiet --allow-existing --python 3.11 lacy_jax_venv
    [[ $# -eq 1 ]] || gcloud storage rsync --recursive "$2" lacy_jax_runs/data
    cd lacy_jax
    "$uv" pip install --quiet --python ../lacy_jax_venv/bin/python -r requirements.txt "jax[tpu]" gcsfs
    ;;
  start)
    shift
    exec 9> lacy_jax.lock
    flock --nonblock 9 || { echo "$(hostname): a run is under way: stop it first" >&2; exit 1; }
    rm -f lacy_jax.status lacy_jax.pid
    cd lacy_jax
    trap '' HUP # also for what is started here: the connection may end before it has a session of its own
    # The shell around the run outlives a SIGTERM, to write down how the run ended.
    # shellcheck disable=SC2016
    setsid bash -c 'trap : TERM; echo $$ > ../lacy_jax.pid; "$@"; echo $? > ../lacy_jax.status' lacy_jax \
      ../lacy_jax_venv/bin/python -m lacy_jax.main --distributed=on "$@" >> ../lacy_jax.log 2>&1 < /dev/null &
    echo "$(hostname): started"
    ;;
  state)
    if flock --nonblock lacy_jax.lock true; then
      state="not running, last status $(cat lacy_jax.status 2> /dev/null || echo unknown)"
    else
      state="running"
    fi
    echo "$(hostname): $state: $(tail -n 1 lacy_jax.log 2> /dev/null || echo no log)"
    ;;
  follow)
    tail -n 40 -F lacy_jax.log &
    flock lacy_jax.lock true # waits for the end of the run
    sleep 1
    kill $!
    exit "$(cat lacy_jax.status 2> /dev/null || echo 1)"
    ;;
  stop)
    if flock --nonblock lacy_jax.lock true; then
      echo "$(hostname): not running"
    else
      pkill -TERM --parent "$(cat lacy_jax.pid)"
      echo "$(hostname): asked to save and stop"
    fi
    ;;
  *)
    echo "tpu_worker.sh: '${1:-}' is not one of setup, start, state, follow, stop" >&2
    exit 2
    ;;
esac
