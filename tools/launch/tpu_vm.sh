#!/usr/bin/env bash
# Trains on a Cloud TPU VM slice, or on several slices over DCN, through gcloud.
#
#   tools/launch/tpu_vm.sh --name NAME --zone ZONE [options] -- ARGUMENTS OF skyrm train
#
# Copies this checkout's package and configs/ to ~/skyrm on every worker, installs it there, and runs the same
# `skyrm train` on all workers, again after an interruption and on new slices after a preemption. It goes on from its
# newest checkpoint; so run.out is gs://BUCKET/FOLDER. Ctrl-C has the run save and stop.
#
#   --name NAME             of the TPU; several slices are NAME-0, NAME-1, ...
#   --zone ZONE             and --project PROJECT, if it is not gcloud's default
#   --slices N              default 1; mesh.data must be a multiple of it
#   --create                requests the slices as the queued resource NAME, and again when they were preempted
#   --accelerator-type T    with --create, such as v6e-64 or v5litepod-256
#   --runtime-version V     with --create: v2-alpha-tpuv6e, v2-alpha-tpuv5 (v5p), v2-alpha-tpuv5-lite (v5e)
#   --internal-ip           connects to the workers' internal addresses
#   --max-restarts N        crashes to survive, default 10; interruptions are not counted
#   --dry-run               prints the commands and runs none
#
# Any other option goes to `gcloud compute tpus queued-resources create`: --spot, --reserved, --network=NETWORK, ...
# For several workers run `ssh-add ~/.ssh/google_compute_engine` first. At the end the slices stay, and cost. Example:
#
#   tools/launch/tpu_vm.sh --name rm8b --zone us-east5-b --slices 2 --create --accelerator-type v6e-64 \
#       --runtime-version v2-alpha-tpuv6e --spot -- --config configs/qwen3_8b.yaml --mesh.data 2 --mesh.fsdp 64 \
#       --data.store gs://BUCKET/store --run.out gs://BUCKET/rm8b
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$here/common.sh"

slices=1 create="" internal_ip="" project="" name="" zone="" accelerator_type="" runtime_version=""
options "name zone project slices accelerator-type runtime-version" "create internal-ip" "$@"
required name "the name of the TPU, such as --name rm8b"
required zone "where it is, such as --zone us-east5-b"
[[ $slices =~ ^[1-9][0-9]*$ ]] || die "--slices is a number from 1, not '$slices'"
if [[ -n $create ]]; then
  required accelerator-type "kind and size of a slice, such as --accelerator-type v6e-64"
  required runtime-version "the image of its VMs, such as --runtime-version v2-alpha-tpuv6e"
elif ((${#others[@]})); then
  die "${others[0]} is for creating slices: add --create, or leave it out; arguments of skyrm train go after --"
fi
tool gcloud "see https://cloud.google.com/sdk/docs/install"

root=$(cd "$here/../.." && pwd)
tpus=(gcloud compute tpus) where=(--zone="$zone")
[[ -z $project ]] || where+=(--project="$project")
reach=("${where[@]}" --worker=all)
[[ -z $internal_ip ]] || reach+=(--internal-ip)
# So that a worker that is gone without a word ends the connection.
alive=(--ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oConnectTimeout=30)
nodes=("$name") shape=(--node-id="$name")
if ((slices > 1)); then
  mapfile -t nodes < <(seq -f "$name-%.0f" 0 $((slices - 1)))
  shape=(--node-count="$slices" --node-prefix="$name")
fi

# on_workers COMMAND: on all workers of all slices at once. `queued-resources ssh` takes 64 workers at most at a time.
on_workers() {
  local node pid pids=() code=0
  for node in "${nodes[@]}"; do
    run "${tpus[@]}" tpu-vm ssh "$node" "${reach[@]}" "${alive[@]}" --command="$1" &
    pids+=($!)
    [[ -z $dry_run ]] || wait $!
  done
  for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
  return "$code"
}

# ask COMMAND...: what a query answers, NONE where it fails; in a dry run what `assumed` says.
assumed=READY
[[ -z $create ]] || assumed=NONE
ask() {
  if [[ -n $dry_run ]]; then
    run "$@"
    echo "$assumed"
  else
    "$@" 2>/dev/null || echo NONE
  fi
}

# slice_states: READY if all of them are; else each state that one of them has.
slice_states() {
  local node
  for node in "${nodes[@]}"; do
    ask "${tpus[@]}" tpu-vm describe "$node" "${where[@]}" --format='value(state)'
  done | sort -u | xargs
}

# ready_slices: returns when all slices are READY; requests them, and anew where they were preempted, with --create.
ready_slices() {
  local states request
  while [[ -z $told ]]; do
    states=$(slice_states)
    [[ $states != READY ]] || return 0
    prepared=""
    if [[ -z $create ]]; then
      say "$name in $zone is not READY but $states (NONE: gcloud finds none); with --create it is made, and made anew"
      return 2
    fi
    request=$(ask "${tpus[@]}" queued-resources describe "$name" "${where[@]}" --format='value(state.state)')
    if [[ $request == NONE ]]; then
      run "${tpus[@]}" queued-resources create "$name" "${where[@]}" "${shape[@]}" \
        --accelerator-type="$accelerator_type" --runtime-version="$runtime_version" "${others[@]}" || return 1
      assumed=READY
    elif [[ $states =~ PREEMPTED|TERMINATED || $request == SUSPENDED || $request == FAILED ]]; then
      say "$name: $states, request $request; deleting it, to request it anew"
      run "${tpus[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet || return 1
      [[ $request != FAILED ]] || return 1
    else
      say "$name: $states, request $request; waiting"
      nap "${SKYRM_POLL_SECONDS:-30}"
    fi
  done
  return 75
}

install="rm -rf skyrm/skyrm_jax && mkdir -p skyrm && tar -xzf skyrm.tar.gz -C skyrm && cd skyrm \
&& export PATH=\$HOME/.local/bin:\$PATH \
&& { command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh; } \
&& uv venv --quiet --allow-existing --python 3.12 && uv pip install --quiet --editable '.[tpu,gcs]'"
# prepare: this checkout, installed on all workers. Their own Python is too old.
prepare() {
  local bundle=${TMPDIR:-/tmp}/skyrm-$name-$$.tar.gz node
  run tar -czf "$bundle" --exclude=__pycache__ -C "$root" \
    pyproject.toml README.md LICENSE skyrm_jax configs tools/launch || return 1
  for node in "${nodes[@]}"; do
    run "${tpus[@]}" tpu-vm scp "$bundle" "$node:skyrm.tar.gz" "${reach[@]}" || return 1
  done
  run rm "$bundle"
  on_workers "$install" || return 1
  prepared=1
}

training="cd skyrm && PATH=\$PWD/.venv/bin:\$PATH exec tools/launch/worker.sh --alone $(quote skyrm train "${train[@]}")"

# A launcher that is told to stop tells the workers, whose ends it then awaits.
pass_on() { on_workers "kill -TERM \$(cat .skyrm.pid)" || :; }

# attempt: one start of the run. How its workers ended says nothing where a slice was taken away.
attempt() {
  local code=0
  ready_slices || return
  [[ -n $prepared ]] || prepare || return 1
  [[ -z $told ]] || return 75
  gather on_workers "$training" || code=$?
  if ((code)) && [[ $(slice_states) != READY ]]; then code=75 prepared=""; fi
  return "$code"
}

code=0 prepared=""
supervise "$max_restarts" attempt || code=$?
[[ -z $create || -n $dry_run ]] ||
  say "the slices stay, and cost: $(quote "${tpus[@]}" queued-resources delete "$name" "${where[@]}" --force)"
exit "$code"
