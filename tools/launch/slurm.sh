#!/usr/bin/env bash
# Trains on GPUs under Slurm: submits itself with sbatch.
#
#   tools/launch/slurm.sh --nodes N --gpus-per-node G [options] -- ARGUMENTS OF skyrm train
#
# One task per GPU, all of them the same `skyrm train`. A run that was interrupted or crashed is started again within
# the job. Two minutes before the time limit, and on SIGTERM, it saves and the job goes back into the queue, until it
# is finished. It goes on from its newest checkpoint; so run.out is on a file system that all nodes share.
#
#   --nodes N            default 1
#   --gpus-per-node G    tasks and GPUs of a node
#   --max-restarts N     crashes to survive each time the job runs, default 10; interruptions are not counted
#   --dry-run            prints the command and runs nothing
#
# Any other option goes to sbatch: --partition=P, --time=24:00:00, --account=A, --exclusive, --output=FILE,
# --cpus-per-task=N, --signal=B:TERM@600 for more time to save, ... Submit in the environment and the folder that
# `skyrm` runs in: Slurm carries both over. `scancel JOB` ends it; it may save within Slurm's KillWait. Example:
#
#   tools/launch/slurm.sh --nodes 4 --gpus-per-node 8 --partition=h100 --time=24:00:00 --cpus-per-task=8 -- \
#       --config configs/qwen3_8b.yaml --mesh.fsdp 32 --data.store /shared/store --run.out /shared/runs/rm8b
set -euo pipefail

# in_job FOLDER MAX_RESTARTS ARGUMENTS...: the batch part. FOLDER is this script's, of which Slurm runs a copy elsewhere.
in_job() {
  local here=$1 max=$2 code=0
  # shellcheck source-path=SCRIPTDIR source=common.sh
  source "$here/common.sh"
  shift 2
  # To all tasks, not to this shell. srun would not pass it on: on SIGTERM it kills them.
  pass_on() { scancel --signal=TERM "$SLURM_JOB_ID" || :; }
  # Since Slurm 22.05 srun does not take --cpus-per-task from sbatch by itself.
  [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
  # jax picks each task's GPU by its local number, so every task has to see all GPUs of its node.
  supervise "$max" gather srun --kill-on-bad-exit=1 --gpu-bind=none "$here/worker.sh" skyrm train "$@" || code=$?
  # scancel sends SIGTERM too; but then the job is COMPLETING, and would come back if requeued.
  if ((code == 75)) && [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]; then
    say "the run has saved; job $SLURM_JOB_ID goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
}
if [[ ${1:-} == --in-job ]]; then in_job "${@:2}"; fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$here/common.sh"
nodes=1 gpus_per_node=""
options "nodes gpus-per-node" "" "$@"
required gpus-per-node "the number of GPUs to use on each node, such as --gpus-per-node 8"
tool sbatch "run this on a login node of a Slurm cluster"

# B: tells the batch shell, which tells every task on every node, and knows that the time is over.
run sbatch --job-name=skyrm --nodes="$nodes" --ntasks-per-node="$gpus_per_node" --gpus-per-node="$gpus_per_node" \
  --requeue --open-mode=append --signal=B:TERM@120 "${others[@]}" \
  "$here/slurm.sh" --in-job "$here" "$max_restarts" "${train[@]}"
