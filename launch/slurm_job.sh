#!/usr/bin/env bash
# The batch script that launch/slurm.sh submits; its arguments are the srun command. Slurm sends it USR1 before the time
# limit (sbatch --signal): the step's tasks then get TERM, save and end with 143, and the job is queued again.
# A scancel sends TERM to this script too, which ends it: that job stays stopped.
set -uo pipefail

# Since slurm 22.05 srun does not read the job's own setting.
[[ -z "${SLURM_CPUS_PER_TASK:-}" ]] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"

out_of_time=""
trap 'out_of_time=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

echo "$(date): job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}, on ${SLURM_JOB_NODELIST:-this node}"
"$@" &
step=$!
wait "$step"
status=$?
if [[ -n "$out_of_time" ]]; then # the signal ended the first wait
  wait "$step"
  status=$?
fi
if [[ -n "$out_of_time" && "$status" = 143 ]]; then
  scontrol requeue "$SLURM_JOB_ID" || echo "the run is saved but could not be queued again: submit it once more" >&2
fi
exit "$status"
