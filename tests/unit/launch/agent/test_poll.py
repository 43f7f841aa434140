"""A call that may never come back is not waited for."""

from __future__ import annotations

import threading

from disttrain.launch.agent.poll import Poll


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
