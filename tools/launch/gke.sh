#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster, through xpk (https://github.com/AI-Hypercomputer/xpk).
#
#   tools/launch/gke.sh --cluster NAME --workload NAME --tpu-type TYPE --docker-image IMAGE [options] \
#       -- ARGUMENTS OF skyrm train
#
# Makes one xpk workload that runs the same `skyrm train` on every VM of every slice. In its container a run that was
# interrupted or crashed is started again, and goes on from its newest checkpoint; so run.out is gs://BUCKET/FOLDER.
# A lost or preempted node has xpk's JobSet start all containers again; a mistake of yours (exit code 2) ends it.
#
#   --cluster NAME            of an xpk cluster
#   --workload NAME           a new name
#   --tpu-type TYPE           such as v6e-64 or v5litepod-256
#   --num-slices N            default 1; mesh.data must be a multiple of it
#   --docker-image IMAGE      in which skyrm-jax[tpu,gcs] is installed; or
#   --base-docker-image IMAGE such an image, to which xpk adds the current folder, your configs with it, to run in
#   --max-restarts N          crashes to survive, default 10; interruptions are not counted
#   --max-evictions N         lost nodes to survive, default 100; JobSet's own count
#   --termination-grace-period-seconds S   to save when told to stop, default 300; a spot node of GKE has 15 unless its
#                             pool is set to more (120 at most)
#   --dry-run                 prints the command and runs nothing
#
# Any other option goes to `xpk workload create`: --project, --zone, --priority, --env NAME=VALUE, --spot, ...
# `xpk workload list --cluster NAME` shows it, `xpk workload delete` has the run save and stop. Example:
#
#   tools/launch/gke.sh --cluster pods --workload rm8b --tpu-type v6e-64 --num-slices 2 --docker-image IMAGE -- \
#       --config configs/qwen3_8b.yaml --mesh.data 2 --mesh.fsdp 64 \
#       --data.store gs://BUCKET/store --run.out gs://BUCKET/rm8b
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$here/common.sh"

cluster="" workload="" tpu_type="" num_slices=1 docker_image="" base_docker_image="" max_evictions=100
termination_grace_period_seconds=300
ours="cluster workload tpu-type num-slices docker-image base-docker-image max-evictions termination-grace-period-seconds"
options "$ours" "" "$@"
required cluster "the xpk cluster; \`xpk cluster list\` shows yours"
required workload "a new name for this run, such as --workload rm8b"
required tpu-type "kind and size of a slice, such as --tpu-type v6e-64"
image=(--docker-image="$docker_image")
if [[ -z $docker_image ]]; then
  [[ -n $base_docker_image ]] ||
    die "--docker-image is missing: give an image in which skyrm-jax[tpu,gcs] is installed, or --base-docker-image"
  image=(--base-docker-image="$base_docker_image")
fi
tool xpk "pip install xpk; see https://github.com/AI-Hypercomputer/xpk"

# A restarted container waits for those that JobSet starts again, however long their nodes take to come.
script="$(declare -f say pass_on forward nap supervise); told= child=; \
export SKYRM_START_TIMEOUT=\${SKYRM_START_TIMEOUT:-1800}; \
supervise $max_restarts forward skyrm train \"\$@\""
# exec: xpk's own shell sends SIGTERM to this process. Kubernetes reads \$\$ as \$, and \$(NAME) as a variable.
command="exec $(quote bash -c "$script" launch "${train[@]}")"
# JobSet starts again after 75, 42 and 127 to 255 only: not after 2, nor after 1, which supervise gives up with.
run xpk workload create --cluster="$cluster" --workload="$workload" --tpu-type="$tpu_type" --num-slices="$num_slices" \
  "${image[@]}" --command="${command//\$/\$\$}" --restart-on-exit-codes=75 --max-restarts="$max_evictions" \
  --termination-grace-period-seconds="$termination_grace_period_seconds" "${others[@]}"
