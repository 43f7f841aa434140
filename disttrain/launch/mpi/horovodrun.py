"""Train under horovodrun: `[--mpi] [horovodrun's options] CONFIG [options of disttrain train]`.

horovodrun itself ends with 1, whatever its ranks end with. The error that it raises names the code of the first rank
that failed: so its entry point is called from here, and that error is read.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from disttrain.config import Config
from disttrain.errors import ConfigError
from disttrain.launch.mpi import mpirun
from disttrain.launch.mpi.arguments import Arguments, check_count, split, threads_per_rank
from disttrain.launch.mpi.horovod_build import find_horovod_build
from disttrain.launch.mpi.supervise import exit_code
from disttrain.launch.stop import STOP_SIGNALS, kill_after_s
from disttrain.system.import_path import RUN_MODULE

_ELASTIC = (
    "--min-np", "--min-num-proc", "--max-np", "--max-num-proc", "--host-discovery-script", "--slots-per-host",
)  # fmt: skip
_KILL_AFTER = "DISTTRAIN_KILL_AFTER_S"  # seconds; for the processes that Horovod makes, which wait for the ranks
_SSH = ("-o", "ConnectTimeout=10", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no")


def start(argv: Sequence[str], check_train: Callable[[Sequence[str]], Config]) -> int:
    """Train under horovodrun; the exit code of the job. Raises DisttrainError for what is wrong before ranks start."""
    arguments = split(argv, "horovodrun.sh")
    check_not_elastic(arguments)
    count = check_count(arguments.value("-np", "--num-proc"), "horovodrun.sh")
    config = check_train(arguments.train)
    if config.train.backend != "horovod":
        raise ConfigError(
            f"train.backend={config.train.backend} under horovodrun: its ranks would not use Horovod. Add "
            "train.backend=horovod, or start with launchers/torchrun.sh or launchers/mpirun.sh."
        )
    if "--mpi" in arguments.options:
        # horovodrun itself would do no more than to call mpirun, through a shell that stops the signals to it.
        return mpirun.start([word for word in argv if word != "--mpi"], check_train)
    find_horovod_build()
    hosts = find_hosts(arguments, count)
    check_hosts(list(hosts), arguments.value("-p", "--ssh-port"), arguments.value("-i", "--ssh-identity-file"))
    cores = len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = threads_per_rank(cores, min(count, max(hosts.values(), default=count)))
    os.environ[_KILL_AFTER] = str(kill_after_s(config.checkpoint.notice_s))
    apply_grace_period()
    controller = [] if "--gloo" in arguments.options else ["--gloo"]
    words = [*controller, *arguments.options, sys.executable, "-u", RUN_MODULE, "disttrain", "train", *arguments.train]
    return exit_code(_run_gloo(words), "horovodrun")


def apply_grace_period() -> None:
    """Let Horovod wait between SIGTERM and SIGKILL as long as the config says: its 5 s are too few for a checkpoint.

    In a process in which the variable is not set this does nothing.
    """
    if seconds := os.environ.get(_KILL_AFTER):
        from horovod.runner.common.util import safe_shell_exec

        safe_shell_exec.GRACEFUL_TERMINATION_TIME_S = float(seconds)


def check_not_elastic(arguments: Arguments) -> None:
    """Raises ConfigError for the options of elastic Horovod. docs/horovod.md says what was seen of it."""
    if chosen := next((name for name in _ELASTIC if arguments.value(name) is not None), None):
        raise ConfigError(
            f"{chosen}: elastic horovodrun gives a host up with the first worker that it loses there, so a job on one "
            "host ends. launchers/torchrun.sh --nnodes MIN:MAX --max-restarts N with train.backend=horovod goes on "
            "after the loss of any rank, and takes in hosts that come."
        )


def find_hosts(arguments: Arguments, count: int) -> dict[str, int]:
    """Slots by host, of the host file or of -H. Raises ConfigError where they do not hold `count` ranks."""
    from horovod.runner.common.util.hosts import parse_host_files, parse_hosts_and_slots

    file, text = arguments.value("--hostfile", "-hostfile"), arguments.value("-H", "--hosts")
    try:
        if file is not None:
            text = parse_host_files(file)
        if text is None:
            return {}
        slots = {str(name): int(number) for name, number in parse_hosts_and_slots(text)[1].items()}
    except (OSError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"the hosts of {file or text} cannot be read ({error}). -H takes node1:2,node2:2, a host file has lines "
            "like 'node1 slots=2'."
        ) from None
    if sum(slots.values()) < count:
        raise ConfigError(
            f"-np {count}, but {file or text} has {sum(slots.values())} slots. Ask for fewer ranks, or name more slots."
        )
    return slots


def check_hosts(names: Sequence[str], port: str | None, identity: str | None) -> None:
    """Raises ConfigError for a host that ssh does not reach. Horovod itself would try for a minute."""
    from horovod.runner.util.network import filter_local_addresses

    options = [*_SSH, *(["-p", port] if port else []), *(["-i", identity] if identity else [])]

    def refusal(name: str) -> str | None:
        done = subprocess.run(
            ["ssh", *options, name, "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        said = done.stderr.strip().splitlines()[-1:] or [f"ssh ended with {done.returncode}"]
        return f"{name} ({said[0]})" if done.returncode else None

    remote = filter_local_addresses(list(names))
    with ThreadPoolExecutor(max_workers=32) as pool:
        refused = list(filter(None, pool.map(refusal, remote)))
    if refused:
        raise ConfigError(
            f"horovodrun does not reach {', '.join(refused)}. Each host must answer `ssh HOST true` without a "
            "password. Correct the hosts, or make them reachable."
        )


def _run_gloo(words: Sequence[str]) -> int:
    """horovodrun in this process; the exit code of the first rank that failed."""
    from horovod.runner.launch import run_commandline

    def stop(number: int, frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # for which it sets a handler of its own

    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, stop)
    sys.argv = ["horovodrun", *words]
    try:
        run_commandline()
    except SystemExit as error:  # of its argument parser
        return error.code if isinstance(error.code, int) else 2
    except Exception as error:  # its errors have no base in common
        if match := re.search(r"Exit code: (\d+)", str(error)):
            return int(match[1])
        raise ConfigError(f"horovodrun {shlex.join(words)} does not start: {error}") from None
    return 0
