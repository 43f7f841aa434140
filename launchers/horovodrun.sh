#!/usr/bin/env bash
# Train with Horovod's own launcher: through gloo, which needs no MPI, or with --mpi through MPI.
# The options before CONFIG are horovodrun's own (with --mpi those of mpirun, which then starts the ranks), those
# after it are of disttrain train.
#
#   launchers/horovodrun.sh -np 2 configs/mnist_cnn.yaml train.backend=horovod data.path=/data/mnist
#   launchers/horovodrun.sh --mpi -np 16 -H node1:8,node2:8 configs/planesnet.yaml train.backend=horovod
#
# Horovod is installed by launchers/install_horovod.sh. Other nodes are reached by ssh, without a password.
# The exit code is that of the first rank that failed, 144 if it was killed (horovodrun itself turns every failure into 1).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"
exec "$PYTHON" -m disttrain.commands.horovodrun "$@"
