"""Train under mpirun: `[--mpich] [mpirun's options] CONFIG [options of disttrain train]`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from disttrain.config import Config
from disttrain.launch.env.reading import hashed_port
from disttrain.launch.mpi.arguments import check_count, split, threads_per_rank
from disttrain.launch.mpi.dry_run import cores_per_rank, dry_run, hosts_of
from disttrain.launch.mpi.horovod_build import check_mpi, find_horovod_build
from disttrain.launch.mpi.implementation import Mpi, find_mpi
from disttrain.launch.mpi.supervise import exit_code, run_program
from disttrain.system.import_path import RUN_MODULE


def start(argv: Sequence[str], check_train: Callable[[Sequence[str]], Config]) -> int:
    """Train under mpirun; the exit code of the job. Raises DisttrainError for what is wrong before any rank starts."""
    words = [word for word in argv if word != "--mpich"]
    arguments = split(words, "mpirun.sh")
    count = check_count(arguments.value("-np", "--np", "-n", "--n", "-c"), "mpirun.sh")
    config = check_train(arguments.train)
    mpi = find_mpi(want_mpich=len(words) < len(argv))
    if config.train.backend == "horovod":
        check_mpi(find_horovod_build(), mpi.name)
    environ = dict(os.environ)
    # Horovod's background thread waits within MPI, which without this takes a core for the waiting.
    environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    options = [*mpi.options(arguments.options, environ), *arguments.options]
    rank_hosts = dry_run(mpi, options, count, environ)
    environ["OMP_NUM_THREADS"] = threads_per_rank(*cores_per_rank(rank_hosts))
    if len(hosts := hosts_of(rank_hosts)) > 1:
        environ.setdefault("MASTER_ADDR", hosts[0])
    if not mpi.is_openmpi:  # whose ranks know nothing of their job from which they could derive a port
        environ.setdefault("MASTER_PORT", str(hashed_port(f"{os.getpid()} {time.time_ns()}")))
    return _run(mpi, [*mpi.options(arguments.options, environ), *arguments.options], arguments.train, environ)


def _run(mpi: Mpi, options: Sequence[str], train: Sequence[str], environ: dict[str, str]) -> int:
    argv = [mpi.program, *mpi.silence, *options, sys.executable, "-u", RUN_MODULE, "disttrain", "train", *train]
    code = run_program(argv, environ, stop_signal=signal.SIGUSR1)
    if not mpi.is_openmpi and code not in (0, 1, 2, 3, 4, 5) and 0 < code < signal.NSIG:
        code += 128  # it says 9 where Open MPI, like a shell, says 137
    return exit_code(code, "mpirun")
