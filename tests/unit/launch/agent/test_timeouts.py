"""Calls that may never come back are not waited for."""

from __future__ import annotations

import threading
import time

import pytest
from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError

from disttrain.launch.agent.timeouts import Poll, within


def test_an_answer_in_time_is_passed_on_and_so_is_an_error() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def test_an_answer_that_does_not_come_is_an_error_of_the_rendezvous() -> None:
    answer = threading.Event()
    began = time.monotonic()
    with pytest.raises(RendezvousConnectionError, match=r"not answered within 0\.05 s"):
        within(0.05, lambda: answer.wait(20))
    assert time.monotonic() - began < 10
    answer.set()


def test_a_poll_gives_answers_as_they_come_and_asks_once_at_a_time() -> None:
    answers, asked = [threading.Event(), threading.Event()], []

    def ask() -> int:
        asked.append(1)
        answers[len(asked) - 1].wait(20)
        return len(asked)

    poll = Poll(ask)
    assert poll(0.01) is None
    assert poll(0.01) is None
    assert len(asked) == 1
    answers[0].set()
    assert poll(5) == 1
    answers[1].set()
    assert poll(5) == 2
