# Your site's settings, edited once. Sourced by launchers/slurm.sh on the login node, and by each job in its batch shell,
# from which all ranks have their environment. Everything here is optional.
# shellcheck shell=bash disable=SC2034

# What sbatch is to know. (It reads these variables by itself: before a plain `sbatch`, source this file.)
#export SBATCH_PARTITION=gpu
#export SBATCH_ACCOUNT=my_account

# Modules, and the Python environment that has disttrain.
#module load cuda
#. "$HOME/venv/bin/activate"
#export PYTHON=$HOME/venv/bin/python

# Ranks in a container: "apptainer", or "pyxis" (enroot). The image has disttrain installed for its `python3`.
CONTAINER=
CONTAINER_IMAGE=
# Further options, of `apptainer exec` or of srun: CONTAINER_OPTIONS=(--nv --bind /data) for GPUs with Apptainer,
# CONTAINER_OPTIONS=(--container-mounts=/data:/data) with pyxis. The run directory and the data must be seen inside.
CONTAINER_OPTIONS=()

# How a job's ranks are started: "ranks" (one task per rank) or "elastic" (one agent per node, which goes on with the
# nodes that are left). A variable of the same name in the shell of sbatch wins.
DISTTRAIN_WAY=${DISTTRAIN_WAY:-ranks}
# After so many requeues without a new checkpoint a job ends.
DISTTRAIN_MAX_REQUEUES=${DISTTRAIN_MAX_REQUEUES:-3}
