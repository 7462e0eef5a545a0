# What the launchers have in common, to be sourced: options, dry runs, and when a run is started again.
#
# Exit codes of `skyrm train`: 0 finished; 2 a mistake of the user, never run again; 75 interrupted (preempted, stuck):
# run again at once, not counted; any other is a crash: run again after a pause, --max-restarts times at most. The
# command stays the same, as the run goes on from the newest checkpoint in run.out.
# shellcheck shell=bash

dry_run="" max_restarts=10 told="" child=""
exec 3>&1 # where a dry run is written, also inside $( )

say() { printf 'launch: %s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) ||
  die "this is bash $BASH_VERSION: install 4.4 or later (macOS: brew install bash)"

# usage: the comment at the head of the script.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# options "VALUED..." "FLAGS..." ARGUMENTS...: a variable for each option of ours (max_restarts for --max-restarts);
# options of the tool go to the array `others`, what follows -- to the array `train`.
options() {
  local valued=" $1 max-restarts " flags=" $2 dry-run " option variable
  shift 2
  others=() train=()
  while (($#)); do
    option=${1%%=*} option=${option#--}
    variable=${option//-/_}
    if [[ $1 == -- ]]; then
      shift
      train=("$@")
      break
    elif [[ $1 == -h || $1 == --help ]]; then
      usage
      exit 0
    elif [[ $1 == --* && $flags == *" $option "* ]]; then
      printf -v "$variable" 1
    elif [[ $1 == --* && $valued == *" $option "* ]]; then
      if [[ $1 != *=* ]]; then
        (($# > 1)) && [[ $2 != -- ]] || die "$1 has no value: write $1=VALUE"
        set -- "$1=$2" "${@:3}"
      fi
      printf -v "$variable" %s "${1#*=}"
    else
      others+=("$1")
    fi
    shift
  done
  [[ $max_restarts =~ ^[0-9]+$ ]] || die "--max-restarts is a number, not '$max_restarts'"
  ((${#train[@]})) || die "no arguments for skyrm train: put them after --, such as -- --config my.yaml --run.out DIR"
}

# required OPTION WHAT: OPTION has been given; else one line that says WHAT it is.
required() {
  local variable=${1//-/_}
  [[ -n ${!variable:-} ]] || die "--$1 is missing: give $2"
}

# tool NAME REMEDY: there is such a program. A dry run does without.
tool() { [[ -n $dry_run ]] || command -v "$1" >/dev/null || die "$1 is not installed: $2"; }

# quote WORDS...: as one line that a shell reads as these words.
quote() {
  local word line=""
  for word; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] && line+=" $word" || line+=" ${word@Q}"
  done
  printf %s "${line# }"
}

# run COMMAND...: runs it; a dry run prints it instead.
run() {
  if [[ -n $dry_run ]]; then
    printf '%s\n' "$(quote "$@")" >&3
  else
    "$@"
  fi
}

# pass_on: tells the command of `forward` to stop.
pass_on() { kill -TERM "$child" 2>/dev/null || :; }

# forward COMMAND...: runs it, and has `pass_on` pass on SIGTERM. With pid_file set, leaves the process's id there.
forward() {
  local code again=1
  trap 'told=1 again=1; ${child:+pass_on}' TERM INT
  "$@" &
  child=$!
  [[ -z ${pid_file:-} ]] || echo "$child" >"$pid_file"
  [[ -z $told ]] || pass_on # told just before
  while [[ -n $again ]]; do # a signal ends `wait` too, with a code that is not the command's
    again="" code=0
    wait "$child" || code=$?
  done
  child=""
  return "$code"
}

# nap SECONDS: ends early when told to stop.
nap() {
  sleep "$1" &
  wait $! || kill $!
}

# supervise MAX COMMAND...: runs it until it need not run again: 0, 2, 1 after too many crashes, 75 when told to stop.
supervise() {
  local max=$1 crashes=0 code
  shift
  while :; do
    code=0
    "$@" || code=$?
    ((code != 0 && code != 2)) || return "$code"
    [[ -z $told ]] || return 75
    if ((code == 75)); then
      say "the run was interrupted; starting it again"
    elif ((++crashes > max)); then
      say "exit code $code after $max restarts; giving up, see the messages above"
      return 1
    else
      say "exit code $code; restart $crashes of $max in ${SKYRM_RESTART_PAUSE:-30} s"
      nap "${SKYRM_RESTART_PAUSE:-30}"
      [[ -z $told ]] || return 75
    fi
  done
}

# gather COMMAND...: runs what starts worker.sh on many machines and shows their output; the gravest of the exit codes
# that these say: 2, a crash, 75, 0. Of its own gcloud has the first that is not 0, and srun the highest.
gather() {
  local codes code=0 ended reader crash="" again=""
  codes=$(mktemp)
  exec 4> >(
    trap '' TERM INT
    while IFS= read -r line || [[ -n $line ]]; do
      printf '%s\n' "$line"
      [[ ! $line =~ "skyrm train ended with exit code "([0-9]+) ]] || echo "${BASH_REMATCH[1]}" >>"$codes"
    done
  )
  reader=$!
  forward "$@" >&4 2>&1 || code=$?
  exec 4>&-
  wait "$reader" || :
  mapfile -t ended <"$codes"
  rm "$codes"
  for ended in "${ended[@]}"; do
    case $ended in
      0) ;;
      2) return 2 ;;
      75) again=75 ;;
      *) crash=$ended ;;
    esac
  done
  return "${crash:-${again:-$code}}"
}
