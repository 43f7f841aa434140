"""Work beside the training thread: in order, and its errors where the training waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from disttrain.comm.background import Background


def work(done: list[int], number: int, go_on: threading.Event) -> Callable[[], None]:
    def step() -> None:
        go_on.wait()
        done.append(number)

    return step


def test_work_is_done_in_its_order_beside_the_caller() -> None:
    background, done, go_on = Background(torch.device("cpu")), list[int](), threading.Event()
    for number in range(5):
        background.submit(work(done, number, go_on))
    assert done == []
    go_on.set()
    background.wait()
    assert done == [0, 1, 2, 3, 4]
    background.close()


def test_an_error_is_raised_where_the_work_is_waited_for_and_nothing_is_done_after_it() -> None:
    background, done, go_on = Background(torch.device("cpu")), list[int](), threading.Event()
    go_on.set()
    background.submit(lambda: 1 / 0)  # type: ignore[arg-type]
    background.submit(work(done, 1, go_on))
    with pytest.raises(ZeroDivisionError):
        background.wait()
    assert done == []
    background.close()
