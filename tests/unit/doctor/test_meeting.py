"""Ranks that meet over TCP: strangers and late ones hold nobody up, and rank zero asks each."""

from __future__ import annotations

import dataclasses
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from disttrain.doctor.meeting import ANSWER_S, attend, gathered, meeting_ports
from disttrain.errors import PeerLostError
from disttrain.launch.env import RankEnv


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def env_of(rank: int, world_size: int, port: int, run_id: str = "7") -> RankEnv:
    return RankEnv("env", rank, rank, 0, world_size, world_size, "127.0.0.1", port, run_id=run_id)


def test_rank_zero_hears_every_rank_asks_it_and_gives_all_one_exit_code() -> None:
    port = free_port()
    serve = {"double": lambda asked: {"is": 2 * asked["value"]}}
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(attend, env_of(rank, 3, port), {"host": f"n{rank}"}, serve, 30.0) for rank in (1, 2)]
        with gathered(env_of(0, 3, port), 30.0) as (lines, told):
            assert sorted(one["facts"]["host"] for one in told) == ["n1", "n2"]
            assert {rank: line.ask("double", ANSWER_S, value=rank) for rank, line in lines.items()} == {
                1: {"is": 2},
                2: {"is": 4},
            }
            for line in lines.values():
                line.send({"ask": "end", "code": 1})
        assert [one.result(30) for one in others] == [1, 1]


def test_where_master_port_is_taken_or_held_by_an_agent_all_meet_at_another_port() -> None:
    with socket.socket() as holder:
        holder.bind(("", 0))
        port = int(holder.getsockname()[1])
        with ThreadPoolExecutor() as pool:
            other = pool.submit(attend, env_of(1, 2, port), {}, {}, 30.0)
            with gathered(env_of(0, 2, port), 30.0) as (lines, _):
                lines[1].send({"ask": "end", "code": 0})
            assert other.result(30) == 0
    with_agent = dataclasses.replace(env_of(0, 2, port), agent_store=True)
    assert port not in meeting_ports(with_agent)


def test_a_rank_that_does_not_come_is_not_waited_for_longer_than_was_asked() -> None:
    with gathered(env_of(0, 3, free_port()), 0.1) as (lines, told):
        assert lines == {}
        assert told == []


def test_a_rank_of_another_job_and_a_second_one_of_the_same_number_are_sent_away() -> None:
    port = free_port()
    with ThreadPoolExecutor() as pool:
        stranger = pool.submit(attend, env_of(1, 2, port, "8"), {}, {}, 0.5)
        with gathered(env_of(0, 2, port), 0.5) as (lines, _):
            assert lines == {}
        with pytest.raises(PeerLostError, match="does not reach rank 0"):
            stranger.result(30)
        pair = [pool.submit(attend, env_of(1, 3, port), {}, {}, 30.0) for _ in range(2)]
        with gathered(env_of(0, 3, port), 30.0) as (lines, told):
            assert len(told) == 2
            lines[1].send({"ask": "end", "code": 0})
        ends = [one.exception(30) for one in pair]
        assert sorted(str(one).partition(" ")[0] for one in ends) == ["None", "another"]


def test_an_unknown_host_is_named_as_such() -> None:
    env = dataclasses.replace(env_of(1, 2, 29500), master_addr="no-such-host.invalid")
    with pytest.raises(PeerLostError, match=r"the name no-such-host[.]invalid is not known here"):
        attend(env, {}, {}, 0.1)
