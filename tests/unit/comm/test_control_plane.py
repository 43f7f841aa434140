"""The control plane: ranks agree, or all learn why one could not. Here ranks are threads around one real store."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from disttrain.comm import control_plane as control_plane_module
from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.failures import Failure, FailureLog, RanksFailed, describe_failure, render_failures, render_ranks
from disttrain.errors import ConfigError, DataError, DivergedError, PeerLostError
from disttrain.launch.env import RankEnv


class AProcessEach(Counter[str]):
    """How many control planes a process has made: here each rank, a thread, stands for a process with its first one."""

    def __getitem__(self, key: str) -> int:
        return 1


@pytest.fixture(autouse=True)
def _a_process_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_plane_module, "_instances_made", AProcessEach())


def env(rank: int, world_size: int, port: int, run_id: str = "") -> RankEnv:
    return RankEnv("env", rank, rank, 0, world_size, world_size, "127.0.0.1", port, run_id=run_id)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ranks(port: int, world_size: int, work: Callable[[ControlPlane], Any]) -> list[Any]:
    """What `work` returns or raises on each rank."""
    results: list[Any] = [None] * world_size
    control_planes = [ControlPlane(env(rank, world_size, port), timeout_s=20) for rank in range(world_size)]

    def run(rank: int) -> None:
        try:
            results[rank] = work(control_planes[rank])
        except Exception as error:
            results[rank] = error
        control_planes[rank].close()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "the ranks wait for each other forever"
    return results


def test_ranks_meet_and_nothing_failed(port: int) -> None:
    assert ranks(port, 3, lambda control_plane: control_plane.barrier("start")) == [[], [], []]


def test_a_program_that_trains_twice_has_one_port_and_the_second_timeout(port: int) -> None:
    for timeout_s in (20, 7):
        control_plane = ControlPlane(env(0, 2, port), timeout_s)
        assert control_plane.store.underlying_store.timeout.total_seconds() == timeout_s  # type: ignore[attr-defined]
        control_plane.close()


def test_what_one_rank_posts_all_ranks_read_first_one_first(port: int) -> None:
    def work(control_plane: ControlPlane) -> list[int]:
        rank = control_plane.env.rank
        first = control_plane.barrier("one", Failure(1, "h", 3, "no data") if rank == 1 else None)
        second = control_plane.barrier("two", Failure(0, "h", 2, "no config") if rank == 0 else None)
        return [*(one.rank for one in first), *(one.rank for one in second)]

    assert ranks(port, 3, work) == [[1, 0]] * 3


def test_a_rank_that_is_slow_to_leave_a_stage_still_comes_to_the_next_where_another_has_failed(port: int) -> None:
    """Else each of the two would wait for the other, and nobody would say what is wrong."""
    posted = threading.Event()

    class Slow(FailureLog):
        def failures(self) -> list[Failure]:
            assert posted.wait(10)
            return super().failures()

    class Fast(FailureLog):
        def post(self, failure: Failure) -> int:
            count = super().post(failure)
            posted.set()
            return count

    def work(control_plane: ControlPlane) -> list[int]:
        is_fast = control_plane.env.rank == 0
        if not is_fast:
            control_plane.failure_log = Slow(control_plane.store, 2)
        assert control_plane.barrier("one") == []
        if is_fast:
            control_plane.failure_log = Fast(control_plane.store, 2)
        failure = Failure(0, "h", 2, "no config") if is_fast else None
        return [one.rank for one in control_plane.barrier("two", failure)]

    assert ranks(port, 2, work) == [[0], [0]]


def test_together_gives_each_rank_its_own_result(port: int) -> None:
    assert ranks(port, 3, lambda control_plane: control_plane.run_on_all("x", lambda: control_plane.env.rank * 10)) == [
        0,
        10,
        20,
    ]


def test_ranks_marked_first_have_finished_before_the_others_begin(port: int) -> None:
    order: list[int] = []

    def work(control_plane: ControlPlane) -> None:
        control_plane.run_on_all("x", lambda: order.append(control_plane.env.rank), first=control_plane.env.rank == 2)

    assert ranks(port, 3, work) == [None] * 3
    assert order[0] == 2
    assert sorted(order) == [0, 1, 2]


@pytest.mark.parametrize("error", [DataError("no such folder"), ZeroDivisionError("oops")])
def test_what_one_rank_raises_ends_all_of_them_with_its_exit_code(port: int, error: Exception) -> None:
    def work(control_plane: ControlPlane) -> None:
        def fail() -> None:
            if control_plane.env.rank == 1:
                raise error

        control_plane.run_on_all("x", fail)

    results = ranks(port, 3, work)
    assert all(isinstance(one, RanksFailed) for one in results)
    assert {one.exit_code for one in results} == {getattr(error, "exit_code", 1)}
    assert len({str(one) for one in results}) == 1
    assert str(results[0]).startswith(f"[rank 1 on {socket.gethostname()}]")
    assert str(error) in str(results[0])


def test_alone_an_error_stays_what_it_is() -> None:
    control_plane = ControlPlane(RankEnv.alone(), 1)

    def fail() -> None:
        raise DataError("as it is")

    with pytest.raises(DataError, match="as it is"):
        control_plane.run_on_all("x", fail)
    assert control_plane.run_on_all("y", lambda: 5) == 5
    control_plane.close()


def test_a_rank_that_does_not_come_is_told_with_the_stage(port: int) -> None:
    def work(control_plane: ControlPlane) -> Any:
        return None if control_plane.env.rank == 1 else control_plane.barrier("start", wait=timedelta(seconds=0.3))

    missing = ranks(port, 2, work)[0]
    assert isinstance(missing, PeerLostError)
    assert "only 1 of world_size=2 ranks reached the stage 'start' within 0.3 s" in str(missing)


def test_totals_are_summed_over_ranks(port: int) -> None:
    def work(control_plane: ControlPlane) -> list[int]:
        return [control_plane.sum("a", control_plane.env.rank), control_plane.sum("b", 5)]

    assert ranks(port, 3, work) == [[3, 15]] * 3


def test_text_reaches_rank_zero_in_order_and_whole(port: int) -> None:
    pieces = ["first", "ü" * 100_000, "last"]

    def work(control_plane: ControlPlane) -> Any:
        if control_plane.env.is_rank_zero:
            return [list(control_plane.recv(rank)) for rank in (1, 2)]
        for piece in pieces if control_plane.env.rank == 1 else []:
            control_plane.send_to_rank_zero(piece)
        control_plane.send_to_rank_zero("")
        return None

    assert ranks(port, 3, work)[0] == [pieces, []]


def test_rank_zeros_text_reaches_all(port: int) -> None:
    def work(control_plane: ControlPlane) -> str:
        return control_plane.broadcast("x", "hello" if control_plane.env.is_rank_zero else None)

    assert ranks(port, 3, work) == ["hello"] * 3


def test_the_rank_that_posts_first_learns_so(port: int) -> None:
    def work(control_plane: ControlPlane) -> tuple[int, int]:
        render_position = control_plane.failure_log.post(Failure(control_plane.env.rank, "h", 4, "x"))
        return render_position, len(control_plane.failure_log.collect())

    results = ranks(port, 3, work)
    assert sorted(render_position for render_position, _ in results) == [1, 2, 3]
    assert [count for _, count in results] == [3, 3, 3]


def test_another_run_on_the_same_store_is_not_seen(port: int) -> None:
    host = ControlPlane(env(0, 2, port, "one"), 5)
    other = ControlPlane(RankEnv("env", 1, 1, 0, 2, 2, "127.0.0.1", port, restart_count=1, run_id="one"), 5)
    host.failure_log.post(Failure(0, "h", 4, "x"))
    assert other.failure_log.failures() == []
    assert len(host.failure_log.failures()) == 1


def test_a_port_in_use_is_a_config_error() -> None:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        number = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"MASTER_PORT={number} is in use on .*Export another MASTER_PORT"):
            ControlPlane(env(0, 2, number), 1)


def test_nobody_at_the_address_is_a_lost_peer_within_the_timeout(port: int) -> None:
    with pytest.raises(PeerLostError, match=rf"rank 1 could not reach rank 0 at 127\.0\.0\.1:{port} within 1 s"):
        ControlPlane(env(1, 2, port), 1)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3], "rank 3"),
        ([0, 1, 2, 3, 7], "ranks 0-3,7"),
        ([2, 0], "ranks 0,2"),
        ([1, 1], "rank 1"),
        ([5, 4], "ranks 4-5"),
    ],
)
def test_ranks_are_written_as_ranges(numbers: list[int], text: str) -> None:
    assert render_ranks(numbers) == text


def test_equal_messages_are_shown_once_with_their_ranks() -> None:
    failures = [Failure(2, "a", 3, "no data"), Failure(0, "b", 3, "no data"), Failure(1, "b", 2, "no port")]
    assert render_failures(failures, 4) == "[ranks 0,2 on a] no data\n[rank 1 on b] no port"


def test_a_message_of_all_ranks_needs_no_ranks() -> None:
    assert render_failures([Failure(k, "a", 3, "no data") for k in range(3)], 3) == "no data"


def test_ranks_that_only_lost_a_peer_say_nothing_once_the_cause_is_known() -> None:
    lost = [Failure(0, "a", 144, "lost the connection"), Failure(2, "a", 144, "lost the connection")]
    assert render_failures([*lost, Failure(1, "b", 4, "diverged")], 3) == "[rank 1 on b] diverged"
    assert render_failures(lost, 3) == "[rank 0 on a] lost the connection"


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (DivergedError("loss is nan"), 4, "loss is nan"),
        (RuntimeError("[../gloo/transport] Connection closed by peer [::1]:5"), 144, "lost the connection to a peer"),
        (RuntimeError("NCCL error: remote process exited"), 144, "lost the connection to a peer"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            BrokenPipeError(32, "Broken pipe"),
            1,
            "standard output was closed by its reader before all results were written",
        ),
        (RuntimeError("mat1 and mat2 shapes"), 1, "RuntimeError: mat1 and mat2 shapes"),
    ],
)
def test_an_exception_becomes_a_failure_with_its_exit_code(error: BaseException, exit_code: int, message: str) -> None:
    failure = describe_failure(error, 3)
    assert (failure.rank, failure.host, failure.exit_code) == (3, socket.gethostname(), exit_code)
    assert failure.message.startswith(message)
