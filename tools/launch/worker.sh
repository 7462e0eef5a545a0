#!/usr/bin/env bash
# The part of one worker, which tpu_vm.sh and slurm.sh start on all of them: runs a command, passes SIGTERM on to it,
# and says in a last line how it ended, for `gather` to read.
#
#   tools/launch/worker.sh [--alone] COMMAND...
#
# --alone: a TPU serves one process. One of ours that still runs on this machine has lost its connection to the launcher:
# it is ended, and this one ends with 75, as the other workers do when they lose a peer, so that all start anew.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# end_former: ends the process that the pid file names, if it is one of ours still; false if not.
end_former() {
  local former waited
  former=$(cat "$pid_file" 2>/dev/null) && grep -qs skyrm "/proc/$former/cmdline" || return 1
  say "ending process $former, which a broken connection left behind"
  kill -TERM "$former"
  for ((waited = 0; waited < 120; waited++)); do
    grep -qs skyrm "/proc/$former/cmdline" || return 0
    sleep 1
  done
  kill -KILL "$former"
}

code=0
if [[ $1 == --alone ]]; then
  shift
  pid_file=$HOME/.skyrm.pid
  ! end_former || set -- bash -c 'exit 75'
fi
forward "$@" || code=$?
printf '\nskyrm train ended with exit code %d\n' "$code"
exit "$code"
