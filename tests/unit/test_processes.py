"""Processes as other processes of the same machine see them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from disttrain.system.processes import GONE, ProcessId, process_state, run_with_timeout

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def until(process: ProcessId, state: str) -> bool:
    deadline = time.monotonic() + 10
    while process_state(process) != state and time.monotonic() < deadline:
        time.sleep(0.01)
    return process_state(process) == state


def test_a_process_is_seen_stopped_running_again_and_gone_before_its_parent_has_asked_for_it() -> None:
    code = "from disttrain.system.processes import ProcessId; print(*ProcessId.own()[1:], flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        pid, started = map(int, child.stdout.readline().split())
        process = ProcessId(ProcessId.own().machine, pid, started)
        assert pid == child.pid
        child.send_signal(signal.SIGSTOP)
        assert until(process, "T")
        child.send_signal(signal.SIGCONT)
        assert until(process, "S")
        child.kill()
        assert until(process, GONE)  # a zombie still: nobody has waited for it


def test_another_process_with_the_same_number_is_not_taken_for_it() -> None:
    own = ProcessId.own()
    assert own.pid == os.getpid()
    assert process_state(own) in ("R", "S")
    assert process_state(own._replace(started=own.started - 1)) == GONE


def test_of_a_process_on_another_machine_nothing_is_known() -> None:
    assert process_state(ProcessId.own()._replace(machine="another boot pid:[1]")) is None


def test_an_answer_in_time_is_passed_on_and_so_is_an_error() -> None:
    assert run_with_timeout(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        run_with_timeout(5, lambda: 1 // 0)


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    answer = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        run_with_timeout(0.05, answer.wait)
    answer.set()
