"""A program that starts ranks: its exit code read, signals handed on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from disttrain.launch.mpi.supervise import exit_code, run_program


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 143, 144])
def test_the_ranks_own_codes_go_through_without_a_word(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(code, "mpirun") == code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("code", "name"), [(137, "SIGKILL"), (139, "SIGSEGV"), (134, "SIGABRT"), (-9, "SIGKILL")])
def test_a_rank_killed_by_a_signal_is_144_and_one_line(
    code: int, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(code, "mpirun") == 144
    assert capsys.readouterr().err == f"disttrain: error: a rank was killed by {name}. Run the same command again.\n"


@pytest.mark.parametrize("code", [205, 255, 77])
def test_a_code_that_no_rank_ends_with_is_a_lost_node(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(code, "mpirun") == 144
    assert f"mpirun ended with exit code {code}" in capsys.readouterr().err


# Writes the numbers of the signals that it gets, and ends after one of them.
_LISTENER = """
import pathlib, signal, sys, time
def note(number, frame):
    pathlib.Path(sys.argv[1], "got").write_text(str(number))
    sys.exit(143)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, note)
pathlib.Path(sys.argv[1], "ready").touch()
while True:
    time.sleep(0.02)
"""


@pytest.mark.parametrize(
    ("sent", "reaches", "code"),
    [
        (signal.SIGTERM, signal.SIGUSR1, 143),
        (signal.SIGUSR2, signal.SIGUSR1, 143),
        (signal.SIGINT, signal.SIGINT, -signal.SIGINT),
    ],
)
def test_a_request_to_stop_reaches_the_program_as_the_signal_that_lets_ranks_save(
    sent: signal.Signals, reaches: signal.Signals, code: int, tmp_path: Path
) -> None:
    def send() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), sent)

    before = signal.getsignal(sent)
    sender = threading.Thread(target=send)
    sender.start()
    assert run_program([sys.executable, "-c", _LISTENER, str(tmp_path)], os.environ, signal.SIGUSR1) == code
    sender.join()
    assert (tmp_path / "got").read_text() == str(int(reaches))
    assert signal.getsignal(sent) is before
