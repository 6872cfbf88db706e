# bash requeue.sh JOBS COMMAND...: run the command as a step of this Slurm job, and queue the job
# again if a signal ends it. What a signal ends: the step, or this script if it is SIGTERM.
#
# Only a job that Slurm calls RUNNING is queued again: one that was cancelled stays so, one that was
# preempted Slurm queues itself. After KILLS deaths it is a crash of the command's own, and the job
# fails; a SIGTERM does not count, for somebody sent it. JOBS is the folder of the count.
KILLS=3
jobs=$1
shift
id=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi

again() { # again SIGNAL: queue the job again, or say why not
  if ! scontrol show job "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING'; then
    echo "trimtab: $id was ended by Slurm; it is not queued again here." >&2
    return
  fi
  if [ "$1" != 15 ]; then
    echo "$1" >> "$jobs/${id}_killed"
    if [ "$(wc -l < "$jobs/${id}_killed")" -gt "$KILLS" ]; then
      echo "trimtab: $id was killed by signal $1 again, $KILLS times is enough." >&2
      return
    fi
  fi
  echo "trimtab: $id was ended by signal $1; it is queued again, and goes on from there." >&2
  scontrol requeue "$SLURM_JOB_ID"
}

srun --unbuffered "$@" &
step=$!
trap 'again 15; kill "$step" 2> /dev/null; wait "$step"; exit 143' TERM
wait "$step"
code=$?
trap '' TERM
# 255 is submitit's: it has queued the job again.
if [ "$code" -gt 128 ] && [ "$code" -lt 255 ]; then again $((code - 128)); fi
exit "$code"
