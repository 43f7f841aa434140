#!/usr/bin/env bash
# A search on a Ray cluster that runs already: the arguments are those of `disttrain tune`.
#
#   RAY_ADDRESS=node0:6379 launchers/ray.sh configs/planesnet.yaml configs/search/asha.yaml --output /shared/search
#
# Without RAY_ADDRESS: the cluster to which this machine belongs. All nodes need disttrain, and --output on a file system
# that they share. A search that is there already goes on.
set -euo pipefail
# shellcheck source=launchers/python.sh
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"
run_module disttrain tune --ray-address "${RAY_ADDRESS:-auto}" --resume "$@"
