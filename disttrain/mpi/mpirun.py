"""What launchers/mpirun.sh calls: `[--mpich] [mpirun's options] CONFIG [options of disttrain train]`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

from disttrain.errors import exit_code_of
from disttrain.launch_env.reading import hashed_port
from disttrain.mpi.arguments import check_count, check_train, split, threads_per_rank
from disttrain.mpi.horovod_build import check_mpi, find_horovod_build
from disttrain.mpi.implementation import Mpi, find_mpi
from disttrain.mpi.look_ahead import cores_per_rank, hosts_of, look_ahead
from disttrain.mpi.supervise import exit_code, run_program


def start(argv: Sequence[str]) -> int:
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
    places = look_ahead(mpi, options, count, environ)
    environ["OMP_NUM_THREADS"] = threads_per_rank(*cores_per_rank(places))
    if len(hosts := hosts_of(places)) > 1:
        environ.setdefault("MASTER_ADDR", hosts[0])
    if not mpi.is_openmpi:  # whose ranks know nothing of their job from which they could derive a port
        environ.setdefault("MASTER_PORT", str(hashed_port(f"{os.getpid()} {time.time_ns()}")))
    return _run(mpi, [*mpi.options(arguments.options, environ), *arguments.options], arguments.train, environ)


def _run(mpi: Mpi, options: Sequence[str], train: Sequence[str], environ: dict[str, str]) -> int:
    argv = [mpi.program, *mpi.silence, *options, sys.executable, "-u", "-m", "disttrain", "train", *train]
    code = run_program(argv, environ, stop_signal=signal.SIGUSR1)
    if not mpi.is_openmpi and code not in (0, 1, 2, 3, 4, 5) and 0 < code < signal.NSIG:
        code += 128  # it says 9 where Open MPI, like a shell, says 137
    return exit_code(code, "mpirun")


def main() -> int:
    """The command line."""
    return exit_code_of(lambda: start(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
