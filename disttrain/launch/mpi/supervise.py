"""One program that starts all ranks: run it, hand signals on to the ranks, and read its exit code."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType

from disttrain.errors import ConfigError, DataError, DivergedError, IntegrityError, PeerLostError, Preempted, say_error
from disttrain.launch.exit_codes import job_exit_code, signal_name
from disttrain.launch.stop import STOP_SIGNALS
from disttrain.system.processes import parent_death_signal

OWN_CODES = frozenset(
    {
        0,
        1,
        *(one.exit_code for one in (ConfigError, DataError, DivergedError, IntegrityError, Preempted, PeerLostError)),
    }
)
"""What ranks of disttrain end with. Anything else comes from the launcher, or from a signal that killed a rank."""

_KILLED = 128


def run_program(argv: Sequence[str], environ: Mapping[str, str], stop_signal: signal.Signals) -> int:
    """Run `argv` to its end; its exit code, negative where a signal killed it.

    A request to stop reaches it as `stop_signal`: mpirun forwards SIGUSR1 to the ranks and waits for them, while with
    SIGTERM it would kill them before they have saved. For that it stands outside this process group, to which
    schedulers and `timeout` send theirs.
    """
    child = subprocess.Popen(argv, env=environ, start_new_session=True, preexec_fn=parent_death_signal(signal.SIGTERM))
    interrupted = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = interrupted or number == signal.SIGINT
        child.send_signal(stop_signal if number in STOP_SIGNALS else number)

    handled = (*STOP_SIGNALS, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in handled}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return -signal.SIGINT if interrupted and code != 0 else code


def exit_code(code: int, who: str) -> int:
    """The exit code of the job, and one line on standard error where no rank can have said why it ended.

    `code` is that of `who`: a rank's own, 128 plus the number of the signal that killed one, or the launcher's.
    """
    if code in OWN_CODES:
        return code
    if code > _KILLED and code - _KILLED in {one.value for one in signal.Signals}:
        code = _KILLED - code
    if code == -signal.SIGINT:
        return job_exit_code(code)
    if code < 0:
        say_error(f"a rank was killed by {signal_name(-code)}. Run the same command again.")
        return job_exit_code(code)
    say_error(f"{who} ended with exit code {code}: a node or its connection was lost. Run the same command again.")
    return PeerLostError.exit_code
