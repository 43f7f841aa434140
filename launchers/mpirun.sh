#!/usr/bin/env bash
# Train with one rank per process of mpirun, of Open MPI 4 or 5 or (found by itself, or with --mpich) of MPICH.
# The options before CONFIG are mpirun's own, those after it are of disttrain train.
#
#   launchers/mpirun.sh -np 2 configs/mnist_cnn.yaml data.path=/data/mnist
#   launchers/mpirun.sh -np 16 --hostfile hosts.txt configs/planesnet.yaml train.backend=horovod
#   launchers/mpirun.sh --mpich -np 4 -f hosts.txt configs/planesnet.yaml
#
# hosts.txt has lines like "node1 slots=8" (Open MPI) or "node1:8" (MPICH). Ranks are not bound to cores unless you say
# --bind-to; on several nodes they meet at the host of rank 0, or at MASTER_ADDR and MASTER_PORT if you set them.
# The exit code is that of the ranks, 144 if one was killed. SIGTERM to this script lets the ranks save, and ends with 143.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"
run_module disttrain.commands.mpirun "$@"
