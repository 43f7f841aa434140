"""Ranks find each other on odd networks, and say so where they do not."""

from __future__ import annotations

import logging
import socket
import threading

import pytest

import disttrain.comm.control_plane as control_plane
import disttrain.comm.rank_session as rank_session
from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.failures import RanksFailed
from disttrain.errors import ConfigError, DataError
from disttrain.launch.env import RankEnv, is_loopback, resolve
from disttrain.system.waits import announced

# --- names and addresses


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[fe80::1%eth0]", "fe80::1%eth0"),
        ("2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "10.0.0.1"),
        ("node0.cluster", "node0.cluster"),
        (" node0 ", "node0"),
        ("[::1]:29500", None),
        ("node0:29500", None),
        ("http://node0", None),
        ("[::1", None),
        ("node0,node1", None),
    ],
)
def test_addresses_are_taken_as_people_write_them(address: str, expected: str | None) -> None:
    variables = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_PORT": "29500"}
    is_here = expected is not None and is_loopback(expected)
    variables |= {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"} if is_here else {}
    if expected is None:
        with pytest.raises(ConfigError, match=r"MASTER_ADDR=.*must be a host name.*MASTER_PORT"):
            resolve({**variables, "MASTER_ADDR": address})
        return
    found = resolve({**variables, "MASTER_ADDR": address})
    assert isinstance(found, RankEnv)
    assert found.master_addr == expected
    assert found.store_address == (f"[{expected}]:29500" if ":" in expected else f"{expected}:29500")


@pytest.mark.parametrize(
    "address",
    ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1"]
    + ["ip6-localhost", "localhost6"],
)
def test_every_name_of_this_machine_is_known(address: str) -> None:
    assert is_loopback(address)
    assert not is_loopback(f"x{address}")


SLURM = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "4",
}  # fmt: skip


def test_one_machine_needs_no_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host")
    here = resolve({**SLURM, "SLURM_STEP_NODELIST": "no-such-host"})
    assert isinstance(here, RankEnv)
    assert here.master_addr == "127.0.0.1"
    two_nodes = {**SLURM, "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
    several = resolve({**two_nodes, "SLURM_STEP_NODELIST": "no-such-host,other"})
    assert isinstance(several, RankEnv)
    assert several.master_addr == "no-such-host"


def test_the_shell_of_srun_is_told_how_to_start() -> None:
    found = resolve({**SLURM, "SLURM_STEP_NODELIST": "n1", "SLURM_PTY_PORT": "41000"})
    assert isinstance(found, RankEnv)
    assert "env -u SLURM_STEP_ID" in found.hint
    assert resolve({name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}) is None


# --- ranks that do not come


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank(number: int, port: int, hint: str = "") -> RankEnv:
    return RankEnv("env", number, number, 0, 2, 2, "127.0.0.1", port, run_id=f"{port}", hint=hint)


def test_a_local_error_is_told_though_no_other_rank_comes(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_plane, "_MERGE_S", 0.2)
    alone = ControlPlane(rank(0, port), timeout_s=20)

    def work() -> None:
        raise ConfigError("epochs=oops")

    with pytest.raises(RanksFailed) as error:
        alone.run_on_all("arguments", work)
    assert alone.resolve_failure(error.value) == (2, "[rank 0 on " + socket.gethostname() + "] epochs=oops")
    assert alone.resolve_failure(error.value) == (2, None)  # whoever comes later says nothing
    assert alone.heartbeat is not None
    alone.heartbeat.close()


def test_a_rank_without_rank_zero_tells_what_is_wrong_with_itself(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_session, "SOON_S", 0.5)
    refusal = DataError("my own mistake")
    session = rank_session.rank_session(rank(1, port), 60, quiet=True, refusal=refusal)
    with pytest.raises(DataError, match="my own mistake"), session:
        pytest.fail("there is no rank 0")


def test_a_wait_for_ranks_that_never_started_names_them(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control_plane, "SOON_S", 0.2)
    monkeypatch.setattr(control_plane, "_instances_made", type("Each", (dict,), {"__getitem__": lambda self, key: 1})())
    first = ControlPlane(rank(0, port, hint="Start it so."), timeout_s=20)
    said = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for rank 1 of world_size=2 to start" in record.getMessage():
                said.set()

    def second() -> None:
        said.wait(30)
        late = ControlPlane(rank(1, port), timeout_s=20)
        late.barrier("here")
        late.close()

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    log, listener = logging.getLogger("disttrain"), Listener()
    log.addHandler(listener)
    try:
        first.barrier("here")
    finally:
        log.removeHandler(listener)
        first.close()
        thread.join(30)
    assert any("Start it so." in one.getMessage() for one in caplog.records)


def test_a_blocking_wait_says_what_it_waits_for_and_a_short_one_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    told = threading.Event()
    with announced("waits for rank 0", after_s=60):
        pass
    with announced("waits for rank 1", after_s=0):
        told.wait(0.3)
    assert capfd.readouterr().err == "disttrain: waits for rank 1\n"
