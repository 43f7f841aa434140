#!/usr/bin/env bash
# Submit a training to Slurm. The options before CONFIG are sbatch's own, those after it are of disttrain train.
#
#   launchers/slurm.sh --nodes 4 --gpus-per-node 8 configs/planesnet.yaml data.path=/data/planesnet.zip
#   launchers/slurm.sh --nodes 2 --ntasks-per-node 4 --time 60 --signal B:USR1@300 configs/planesnet.yaml
#   launchers/slurm.sh --elastic --nodes 4 --gpus-per-node 8 configs/planesnet.yaml
#   launchers/slurm.sh --mpi --nodes 2 --ntasks-per-node 8 configs/planesnet.yaml train.backend=horovod
#   launchers/slurm.sh --array 0-4 --gpus-per-node 1 configs/planesnet.yaml
#
# --elastic starts one agent per node, which goes on with the nodes that are left; --mpi starts the ranks by mpirun; with
# --array each task trains a seed of its own, or a row of the CSV file that DISTTRAIN_ROWS names. The settings of your site
# are in slurm/site.sh. docs/slurm.md has the rest. The exit code is 2 for what is wrong with the config, else sbatch's.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
site=${DISTTRAIN_SITE:-$root/slurm/site.sh}
if [ ! -f "$site" ]; then
    echo "disttrain: error: the site's settings $site are missing. Take slurm/site.sh from the repository back." >&2
    exit 2
fi
# shellcheck source=slurm/site.sh
. "$site"
# shellcheck source=launchers/python.sh
. "$root/launchers/python.sh"

script=train options=()
while [ $# -gt 0 ]; do
    case $1 in
        --) shift && break ;;
        *.yaml | *.yml) break ;;
        --elastic) export DISTTRAIN_WAY=elastic && options+=(--no-kill) ;;
        --mpi) script=train_mpi ;;
        --array | -a | --array=* | -a?*) script=array && options+=("$1") ;;
        --signal=*) export DISTTRAIN_SIGNAL=${1#*=} && options+=("$1") ;;
        --signal) export DISTTRAIN_SIGNAL=${2:-} && options+=("$1") ;;
        *) options+=("$1") ;;
    esac
    shift
done
plan=$("$PYTHON" "$root/disttrain/system/entry/run_module.py" disttrain.commands.slurm check -- "$@") || exit
run_dir=
eval "$plan" # run_dir
id=$(sbatch --parsable ${options[@]+"${options[@]}"} "$root/slurm/$script.sbatch" "$@")
id=${id%%;*} # with several clusters the name of one follows
output=$(scontrol show job "$id" 2>/dev/null | sed -n '/^ *StdOut=/{s///;p;q;}')
cat <<END
job $id is submitted
  its output:   ${output:-disttrain-$id.out}
  its run:      $run_dir (logs/rank_N.log, status.json, checkpoints/)
  how it is:    squeue --job $id
  to stop it:   scancel $id        the ranks save, and the job does not come back
END
