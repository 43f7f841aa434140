"""Images of several requests become one batch, and every request has its own results."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest

from disttrain.serve.batching import Batcher, QueueFull

_LONG_S = 30.0


class Doubler:
    """A model that says what it was given, and waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.has_begun = threading.Event()

    def __call__(self, model: str, images: np.ndarray) -> np.ndarray:
        self.has_begun.set()
        assert self.may_go.wait(_LONG_S)
        self.batches.append((model, len(images)))
        if model == "broken":
            raise ValueError("broken model")
        return images * 2


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
def batcher(doubler: Doubler) -> Iterator[Batcher[str]]:
    made: Batcher[str] = Batcher(doubler, max_batch_size=8, max_wait_s=_LONG_S, max_images=20)
    yield made
    doubler.may_go.set()
    made.close()


def results(*futures: Future[np.ndarray]) -> list[list[int]]:
    return [future.result(_LONG_S).tolist() for future in futures]


def occupy(batcher: Batcher[str], doubler: Doubler) -> Future[np.ndarray]:
    """Let the model's thread wait in a first batch, so that what comes now queues up."""
    doubler.may_go.clear()
    first = batcher.submit("a", np.array([0]))
    assert doubler.has_begun.wait(_LONG_S)
    return first


def test_what_queues_up_is_computed_together_and_comes_back_in_order(batcher: Batcher[str], doubler: Doubler) -> None:
    first = occupy(batcher, doubler)
    futures = [batcher.submit("a", np.array([k, k + 10])) for k in range(4)]
    doubler.may_go.set()
    assert results(first, *futures) == [[0], [0, 20], [2, 22], [4, 24], [6, 26]]
    assert doubler.batches == [("a", 1), ("a", 8)]


def test_a_batch_holds_images_of_one_model(batcher: Batcher[str], doubler: Doubler) -> None:
    first = occupy(batcher, doubler)
    futures = [batcher.submit(model, np.array([k])) for k, model in enumerate("aabba")]
    doubler.may_go.set()
    assert results(first, *futures) == [[0], [0], [2], [4], [6], [8]]
    assert doubler.batches == [("a", 1), ("a", 2), ("b", 2), ("a", 1)]


def test_more_images_than_a_batch_holds_are_computed_in_several(batcher: Batcher[str], doubler: Doubler) -> None:
    assert results(batcher.submit("a", np.arange(19))) == [[2 * k for k in range(19)]]
    assert doubler.batches == [("a", 8), ("a", 8), ("a", 3)]


def test_an_image_that_is_alone_does_not_wait_and_one_that_others_follow_does(
    batcher: Batcher[str], doubler: Doubler
) -> None:
    assert results(batcher.submit("a", np.array([1]))) == [[2]]  # or it would last 30 s
    batcher.announce()
    batcher.announce()
    early = batcher.submit("a", np.array([2]))
    batcher.arrived()
    assert not early.done()
    late = batcher.submit("a", np.array([3]))
    batcher.arrived()
    assert results(early, late) == [[4], [6]]
    assert doubler.batches == [("a", 1), ("a", 2)]


def test_what_is_announced_and_does_not_come_holds_nothing_up(batcher: Batcher[str]) -> None:
    batcher.announce()
    waiting = batcher.submit("a", np.array([1]))
    batcher.arrived()
    assert results(waiting) == [[2]]


def test_the_wait_for_others_has_an_end() -> None:
    batcher: Batcher[str] = Batcher(Doubler(), max_batch_size=8, max_wait_s=0.01, max_images=20)
    batcher.announce()
    assert results(batcher.submit("a", np.array([1]))) == [[2]]
    batcher.close()


def test_a_full_queue_refuses_and_has_room_again_after_a_release(batcher: Batcher[str]) -> None:
    batcher.admit(15)
    with pytest.raises(QueueFull, match="15 images wait, and 20 may"):
        batcher.admit(6)
    batcher.admit(5)
    batcher.release(15)
    batcher.admit(15)
    assert batcher.admitted == 20


def test_a_model_that_raises_fails_its_requests_and_no_others(batcher: Batcher[str]) -> None:
    with pytest.raises(ValueError, match="broken model"):
        batcher.submit("broken", np.array([1])).result(_LONG_S)
    assert results(batcher.submit("a", np.array([1]))) == [[2]]


def test_requests_that_were_given_up_are_not_computed(batcher: Batcher[str], doubler: Doubler) -> None:
    first = occupy(batcher, doubler)
    given_up, kept = batcher.submit("a", np.array([1])), batcher.submit("a", np.array([2]))
    assert given_up.cancel()
    doubler.may_go.set()
    assert results(first, kept) == [[0], [4]]
    assert doubler.batches == [("a", 1), ("a", 1)]


def test_closing_computes_what_is_queued(doubler: Doubler) -> None:
    batcher: Batcher[str] = Batcher(doubler, max_batch_size=8, max_wait_s=_LONG_S, max_images=20)
    occupy(batcher, doubler)
    batcher.announce()
    queued = batcher.submit("a", np.array([5]))
    doubler.may_go.set()
    batcher.close()
    assert queued.result(0).tolist() == [10]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("a", np.array([1]))
