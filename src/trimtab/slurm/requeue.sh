# bash requeue.sh JOBS KILLS COMMAND...: run the command as a step of this Slurm job, and queue the
# job again if a signal ends the command, or SIGTERM this script.
#
# Only a job that Slurm calls RUNNING is queued again: one that was cancelled stays so, one that was
# preempted Slurm queues itself. After so many KILLS it is a crash of the command's own, and the
# job fails; a SIGTERM does not count, for somebody sent it. JOBS is the folder of the count.
jobs=$1 kills=$2
shift 2
# Of an array 17_0, never its number alone: that may be the number of the whole array too.
id=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi

again() { # again SIGNAL: queue the job again, or say why not
  if ! scontrol show job "$id" | grep -q 'JobState=RUNNING'; then
    echo "trimtab: Slurm has ended $id itself, or queued it again already." >&2
    return
  fi
  if [ "$1" != 15 ]; then
    echo "$1" >> "$jobs/${id}_killed"
    if [ "$(wc -l < "$jobs/${id}_killed")" -gt "$kills" ]; then
      echo "trimtab: $id was killed by signal $1 again; $kills times is enough." >&2
      return
    fi
  fi
  echo "trimtab: $id was ended by signal $1; it is queued again, and goes on from there." >&2
  scontrol requeue "$id"
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
