# Sourced by the batch scripts: start the ranks of a job, hand requests to stop on to them, and requeue the job where that
# helps. What is decided here is decided in disttrain/launch/slurm/.
# shellcheck shell=bash

say() { echo "disttrain: $*" >&2; }

# A mistake that the same job would make again: it ends, and is not requeued.
refuse() {
    say "error: $*"
    exit 2
}

# Settings of the site. `exit` in them ends the job with one message too.
load_site() {
    local file=${DISTTRAIN_SITE:-$slurm_dir/site.sh}
    [ -f "$file" ] || refuse "the site's settings $file are missing. Take slurm/site.sh from the repository back, or" \
        "export DISTTRAIN_SITE=<your file>."
    # shellcheck disable=SC2064 # as it is now
    trap "refuse $(printf %q "the site's settings $file called exit. Try them on a node: srun bash -c '. $file'")" EXIT
    # shellcheck source=slurm/site.sh
    . "$file"
    local status=$?
    trap - EXIT
    set +e
    [ "$status" -eq 0 ] || refuse "the site's settings $file failed with $status. Try them on a node:" \
        "srun bash -c '. $file'"
}

# How a program of ours is called: in a container, if the site has one, by module.
find_program() {
    in_container=() task_options=()
    case ${CONTAINER:-} in
        '')
            # shellcheck source=launchers/python.sh
            . "$slurm_dir/../launchers/python.sh"
            run_module=("$PYTHON" -u "$slurm_dir/../disttrain/system/entry/run_module.py")
            ;;
        apptainer)
            in_container=(apptainer exec ${CONTAINER_OPTIONS[@]+"${CONTAINER_OPTIONS[@]}"} "${CONTAINER_IMAGE:-}")
            run_module=("${in_container[@]}" "${PYTHON:-python3}" -u -m)
            ;;
        pyxis)
            task_options=("--container-image=${CONTAINER_IMAGE:-}" ${CONTAINER_OPTIONS[@]+"${CONTAINER_OPTIONS[@]}"})
            run_module=("${PYTHON:-python3}" -u -m)
            ;;
        *) refuse "CONTAINER=$CONTAINER in the site's settings: it must be empty, apptainer or pyxis." ;;
    esac
    [ -z "${CONTAINER:-}" ] || [ -n "${CONTAINER_IMAGE:-}" ] || refuse "CONTAINER=$CONTAINER, but CONTAINER_IMAGE is empty" \
        "in the site's settings: name the image."
}

# A question to disttrain, from this shell. What is in $told it reads.
ask() {
    local here=()
    [ "${CONTAINER:-}" != pyxis ] || here=(srun --overlap --nodes=1 --ntasks=1 "--nodelist=$SLURMD_NODENAME" "${task_options[@]}")
    ${here[@]+"${here[@]}"} "${run_module[@]}" disttrain.commands.slurm "$@" <<<"${told:-}"
}

# How many ranks there are: as many as sbatch was told, else one per GPU, else one per node.
count_ranks() {
    nodes=$SLURM_NNODES
    if [ -n "${SLURM_NTASKS:-}" ] && [ "$way" != elastic ]; then
        ranks=$SLURM_NTASKS rank_options=()
    else
        local each=${SLURM_NTASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-}}
        [ -n "$each" ] || each=$((${SLURM_NTASKS:-$nodes} / nodes))
        ranks=$((nodes * each)) ranks_per_node=$each
        rank_options=("--ntasks=$ranks" "--ntasks-per-node=$each")
        if [ "$way" != elastic ] && [ "${SLURM_CPUS_ON_NODE:-$each}" -lt "$each" ]; then
            say "warning: $each ranks share $SLURM_CPUS_ON_NODE CPUs of a node. Submit with --cpus-per-task=N" \
                "--ntasks-per-node=$each, or --exclusive."
            rank_options+=(--overcommit)
        fi
    fi
}

# sbatch tells a job's --signal to nobody: the launcher hands it on, else the script says it.
find_signal() {
    local line
    signal=${DISTTRAIN_SIGNAL:-${SBATCH_SIGNAL:-}}
    [ -n "$signal" ] || while IFS= read -r line; do
        case $line in '#SBATCH --signal='*) signal=${line#*=} ;; esac
    done <"$0"
}

# A request to stop reaches the ranks as SIGUSR1: on SIGTERM srun and mpirun would kill them before they have saved.
asked_to_stop() {
    if [ -z "$asked" ]; then
        asked=$1
        local left
        left=$(squeue --noheader --job="$SLURM_JOB_ID" --format=%L 2>/dev/null)
        say "SIG$1: the ranks save and leave (time left: ${left:-unknown})"
    fi
    [ -z "$starter" ] || kill -USR1 "$starter" 2>/dev/null
}

# The exit code of a program that starts all ranks.
run_to_end() {
    "$@" </dev/null &
    starter=$!
    [ -z "$asked" ] || kill -USR1 "$starter"
    while
        wait "$starter"
        code=$?
        kill -0 "$starter" 2>/dev/null # a signal ends `wait`, not the program
    do :; done
    starter=
}

# How one task is started on each node, with all that the job has there.
find_one_per_node() {
    local name
    one_per_node=(env)
    for name in "${!SLURM_NTASKS@}" "${!SLURM_CPUS_PER@}" "${!SLURM_GPUS_PER_TASK@}" "${!SLURM_TASKS_PER_NODE@}" \
        SLURM_NPROCS; do
        one_per_node+=(-u "$name")
    done
    one_per_node+=(srun --export=ALL --kill-on-bad-exit=0 ${task_options[@]+"${task_options[@]}"} "--nodes=$nodes"
        "--ntasks=$nodes" --ntasks-per-node=1 "--cpus-per-task=${SLURM_CPUS_ON_NODE:-1}")
}

# The doctor on every node: an unfit one ends the job here, or it is requeued without that node. Where the doctor itself
# is lost, the ranks find out what is wrong.
preflight() {
    local told='' status exclude='' before=''
    [ "${DISTTRAIN_PREFLIGHT:-1}" != 0 ] || return 0
    told=$("${one_per_node[@]}" --mpi=none "${run_module[@]}" disttrain doctor "${doctor[@]}" --job --json \
        "--ranks-per-node=$(((ranks + nodes - 1) / nodes))" </dev/null)
    status=$?
    [ "$status" -ne 0 ] || return 0
    if [ -z "$told" ] || [ "$status" -ne 1 ]; then
        say "warning: the preflight ended with exit code $status: the ranks start without it"
        return 0
    fi
    before=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null | sed -n 's/.*ExcNodeList=\([^ ]*\).*/\1/p')
    plan=$(ask unfit "--before=$before" "--wanted=${SLURM_EXCLUDE_UNFIT:-0}" "--most=${DISTTRAIN_MAX_REQUEUES:-3}") || exit 1
    eval "$plan" # exclude
    [ -n "$exclude" ] || exit 1
    trap '' TERM # Slurm ends this shell as soon as the job is in the queue again
    # Only a job that waits can be given nodes to exclude: it is held until it has them.
    if ! { scontrol requeuehold "$SLURM_JOB_ID" && scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=$exclude" &&
        scontrol release "$SLURM_JOB_ID"; }; then
        say "error: this job may not requeue itself without $exclude. Submit it again with sbatch --exclude=$exclude"
    fi
    exit 1
}

start_ranks() {
    local options=(--export=ALL --kill-on-bad-exit=0 "--wait=$wait_s" ${task_options[@]+"${task_options[@]}"})
    # srun does not take --cpus-per-task over from sbatch since Slurm 22.05.
    [ -z "${SLURM_CPUS_PER_TASK:-}" ] || options+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
    case $way in
        ranks)
            [ -z "${DISTTRAIN_SRUN_MPI:-}" ] || options+=("--mpi=$DISTTRAIN_SRUN_MPI")
            run_to_end srun "${options[@]}" ${rank_options[@]+"${rank_options[@]}"} "${run_module[@]}" \
                disttrain train "${train[@]}"
            ;;
        elastic)
            local first
            first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
            run_to_end "${one_per_node[@]}" --no-kill "--wait=$wait_s" "${run_module[@]}" disttrain.commands.torchrun \
                "--nnodes=${DISTTRAIN_MIN_NODES:-1}:$nodes" "--nproc-per-node=$ranks_per_node" \
                "--max-restarts=${DISTTRAIN_MAX_RESTARTS:-3}" --rdzv-backend=c10d \
                "--rdzv-endpoint=$first:$((25000 + SLURM_JOB_ID % 4000))" \
                "--rdzv-id=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" "${train[@]}"
            ;;
        mpirun)
            run_to_end "${run_module[@]}" disttrain.commands.mpirun -np "$ranks" "${train[@]}"
            ;;
    esac
}

# Train as `disttrain train "$@"` would, with all ranks of the job; does not return.
train_job() {
    set -uo pipefail
    set +u
    load_site
    set -u
    way=${DISTTRAIN_WAY:-ranks} asked='' starter='' code=1
    local requeue=0 plan='' run_dir='' wait_s='' result='' train=() doctor=()
    case $way in ranks | elastic | mpirun) ;; *)
        refuse "DISTTRAIN_WAY=$way: it must be ranks or elastic (or, by train_mpi.sbatch, mpirun)."
        ;;
    esac
    trap 'asked_to_stop USR1' USR1
    trap 'asked_to_stop USR2' USR2
    trap 'asked_to_stop TERM' TERM
    find_program
    count_ranks
    find_signal
    export DISTTRAIN_JOB_ID=slurm-$SLURM_JOB_ID
    plan=$(ask before "--signal=$signal" "--way=$way" "--ranks=$ranks" "--nodes=$nodes" \
        "--gpus=${SLURM_GPUS_ON_NODE:-0}" "--cpus=${SLURM_CPUS_PER_TASK:-0}" -- "$@")
    code=$?
    [ "$code" -eq 0 ] || exit "$code"
    eval "$plan" # run_dir, wait_s, result, train, doctor
    find_one_per_node
    preflight
    start_ranks
    plan=$(ask after "--code=$code" "--run-dir=$run_dir" "--result=$result" "--job=$SLURM_JOB_ID" \
        "--state=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null)" "--most=${DISTTRAIN_MAX_REQUEUES:-3}") || exit "$code"
    eval "$plan" # code, requeue
    if [ "$requeue" = 1 ]; then
        trap '' TERM # Slurm ends this shell as soon as the job is in the queue again
        scontrol requeue "$SLURM_JOB_ID" ||
            say "error: this job may not requeue itself. Submit it with --requeue, or submit it again: it goes on."
    fi
    exit "$code"
}

# One config of an array: train.seed is the task's number, or the fields are those of a row of DISTTRAIN_ROWS.
train_array_task() {
    set -uo pipefail
    set +u
    load_site
    set -u
    [ -n "${SLURM_ARRAY_TASK_ID:-}" ] || refuse "this job is no array. Submit it with sbatch --array=0-4."
    find_program
    local plan train=()
    plan=$(ask row "--index=$SLURM_ARRAY_TASK_ID" "--rows=${DISTTRAIN_ROWS:-}" -- "$@") || exit
    eval "$plan" # train
    train_job "${train[@]}"
}
