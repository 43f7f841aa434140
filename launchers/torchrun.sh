#!/usr/bin/env bash
# Train with torchrun's own options, on one node or on one of several, and hand the exit code of the ranks through
# (torchrun itself turns every failure into 1).
#
#   launchers/torchrun.sh --nproc-per-node 2 configs/mnist_cnn.yaml data.path=/data/mnist
#   launchers/torchrun.sh --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node0:29400 --rdzv-id 7 \
#       configs/planesnet.yaml
#
#   launchers/torchrun.sh --nnodes 2:4 --max-restarts 3 --nproc-per-node 8 --rdzv-backend c10d \
#       --rdzv-endpoint node0:29400 --rdzv-id 7 configs/planesnet.yaml
#
# The last one goes on with 2 nodes when others are lost, and takes in up to 4 when more come: each loss is one of the
# --max-restarts, a node that joins is not. A SIGTERM, SIGUSR1 or SIGUSR2 to this process asks all ranks to save and
# to leave within checkpoint.notice_s.
#
# In a PyTorchJob or TrainJob the PET_* variables take the place of the options.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"
run_module disttrain.commands.torchrun "$@"
