"""The control plane: a key-value store beside the process group, up before it and after it breaks.

Through it ranks agree that all are ready, and say why one is not, so that N ranks give one report under every launcher.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

from torch.distributed import DistError, HashStore, PrefixStore, Store, TCPStore

from disttrain.comm import flight_recorder
from disttrain.comm.failures import (
    LOST_CONNECTION,
    Failure,
    FailureLog,
    RanksFailed,
    describe_failure,
    render_failures,
    render_ranks,
)
from disttrain.comm.heartbeat import Heartbeat
from disttrain.comm.lost_peers import describe_missing, name_lost_peer
from disttrain.errors import ConfigError, PeerLostError
from disttrain.launch.env import RankEnv, limit_name_lookups
from disttrain.log import log
from disttrain.system.waits import SOON_S, announced
from disttrain.telemetry.phases import PhaseTimer

T = TypeVar("T")

JOIN_TIMEOUT_S = 600.0
"""How long ranks wait for one whose heartbeat was never seen."""

_MERGE_S = 3.0  # for other ranks to come with the same failure, so that one report is made of all
_SAY_AGAIN_S = 60.0
_LOOK_AFTER_S, _LOOK_EVERY_S = 1.0, 0.5  # for what has become of those that one waits for
_LONGEST_PAUSE_S, _LONGER_PER_RANK_S = 0.02, 0.0002  # between two looks at a key
_instances_made: Counter[str] = Counter()
_hosted: dict[tuple[str, int], TCPStore] = {}  # kept: the port stays the same for a program that trains twice


class ControlPlane:
    """One rank's connection to the store that all ranks share."""

    def __init__(self, env: RankEnv, timeout_s: float, join_timeout_s: float = JOIN_TIMEOUT_S) -> None:
        """Connect to the store. Raises ConfigError (its port is in use) or PeerLostError (nobody answers)."""
        self.env, self.timeout_s, self.join_timeout_s, self._sent = env, timeout_s, join_timeout_s, 0
        self.logs_dir: Path | None = None
        self.phases = PhaseTimer()
        run = f"disttrain/{env.run_id}/{env.restart_count}"
        _instances_made[run] += 1  # a program may train twice: each time without the failure records of the last
        self._prefix = f"{run}/{_instances_made[run]}"
        self.store: Store = PrefixStore(self._prefix, _connect(env, timedelta(seconds=timeout_s)))
        self._second: Store | None = None
        self.failure_log = FailureLog(self.store, env.world_size)
        self.heartbeat = self._start_heartbeat() if env.world_size > 1 else None

    def _start_heartbeat(self) -> Heartbeat:
        env = self.env
        return Heartbeat(self.connect(), env.rank, env.world_size, not env.agent_store, self.phases)

    def connect(self) -> Store:
        """The second connection to the same store. It is for threads whose calls are all short, and they share it:
        none of them has to stand back until a wait on `store` is over."""
        if self.env.world_size == 1 and not self.env.agent_store:
            return self.store
        if self._second is None:
            env, timeout = self.env, timedelta(seconds=self.timeout_s)
            client = TCPStore(env.master_addr, env.master_port, timeout=timeout, wait_for_workers=False)
            self._second = PrefixStore(self._prefix, client)
        return self._second

    def watch(self, timeout_s: float, logs_dir: Path) -> None:
        """From now on ranks wait for others at most `timeout_s`, and what explains a wait goes to `logs_dir`.

        To be called before the process group is made.
        """
        self.timeout_s, self.logs_dir = timeout_s, logs_dir
        if self.env.world_size > 1:
            flight_recorder.enable(logs_dir)

    def barrier(self, stage: str, failure: Failure | None = None, wait: timedelta | None = None) -> list[Failure]:
        """Wait until every rank has reached `stage`; what failed on the way there, the first one first.

        That may take as long as the missing ranks have a heartbeat, or `wait`. Raises PeerLostError that names them.
        """
        if failure is not None:
            self.failure_log.post(dataclasses.replace(failure, stage=stage))
        self.store.set(f"{stage}/reached/{self.env.rank}", "")
        if self.store.add(f"{stage}/count", 1) == self.env.world_size:
            self.store.set(f"{stage}/complete", "1")

        def missing() -> list[int]:
            ranks = range(self.env.world_size)
            return [rank for rank in ranks if not self._has_reached(stage, rank)]

        self._await(f"{stage}/complete", stage, missing, wait)
        # A faster rank may have failed on the way to the next stage by now, where it waits for this one.
        return [one for one in self.failure_log.failures() if one.stage == stage]

    def _has_reached(self, stage: str, rank: int) -> bool:
        return self.store.check([f"{stage}/reached/{rank}"])

    def run_on_all(self, stage: str, work: Callable[[], T], first: bool = True) -> T:
        """Do `work` on every rank and go on only if all of them could; ranks with `first` do it before the others.

        Raises RanksFailed on every rank where one of them raised an exception, PeerLostError where one is missing. An
        exception is told at once: ranks that are still busy, or have not come, find it when they get here.
        """
        result: T | None = None
        for turn in (True, False):
            failure = None
            if turn is first:
                try:
                    result = work()
                except Exception as error:
                    if self.env.world_size == 1:
                        raise
                    failure = describe_failure(error, self.env.rank)
            name = f"{stage}/{'first' if turn else 'rest'}"
            if failures := self.barrier(name, failure):
                present = (rank for rank in range(self.env.world_size) if self._has_reached(name, rank))
                raise RanksFailed(failures, self.env.world_size, reporter=next(present, self.env.rank))
        return cast(T, result)

    def sum(self, name: str, value: int) -> int:
        """The sum of every rank's value."""
        self.store.add(f"total/{name}", value)
        self.barrier(f"total/{name}")
        return self.store.add(f"total/{name}", 0)

    def broadcast(self, name: str, text: str | None) -> str:
        """The text that rank zero gives, on every rank."""
        key = f"from_rank_zero/{name}"
        if self.env.is_rank_zero:
            self.store.set(key, text or "")
        self._await(key, name, lambda: [0])
        return self.store.get(key).decode()

    def send_to_rank_zero(self, text: str) -> None:
        """Put a piece of text there for rank zero, which reads this rank's pieces in order; an empty one ends them."""
        # As bytes, because file names in it need not be UTF-8.
        self.store.set(f"text/{self.env.rank}/{self._sent}", text.encode(errors="surrogateescape"))  # type: ignore[arg-type]
        self._sent += 1

    def recv(self, rank: int) -> Iterator[str]:
        """The pieces that `rank` sends, up to the empty one."""
        for index in itertools.count():
            key = f"text/{rank}/{index}"
            self._await(key, f"text {index} of rank {rank}", lambda: [rank])
            piece = self.store.get(key).decode(errors="surrogateescape")
            self.store.delete_key(key)
            if not piece:
                return
            yield piece

    def resolve_failure(self, error: BaseException) -> tuple[int, str | None]:
        """The job's exit code, and what to tell the user: None where another rank tells, and by now has."""
        if isinstance(error, RanksFailed):
            with contextlib.suppress(DistError):
                if self.env.rank != error.reporter:
                    self.failure_log.await_report()
                    return error.exit_code, None
                if not self.failure_log.claim_report():
                    return error.exit_code, None
            return error.exit_code, str(error)
        failure = describe_failure(error, self.env.rank)
        if self.heartbeat is not None and failure.message.startswith(LOST_CONNECTION):
            failure = dataclasses.replace(
                failure, message=name_lost_peer(self.heartbeat, failure.message, self.failure_log)
            )
        try:
            if self.failure_log.post(failure) > 1:
                self.failure_log.await_report()
                return self.failure_log.failures()[0].exit_code, None
            failures = self.failure_log.collect()
        except DistError:  # the rank that hosted the store is the one that was lost
            if not self.speaks_for_host:
                return failure.exit_code, None
            failures = [failure]
        return failures[0].exit_code, render_failures(failures, self.env.world_size)

    @property
    def speaks_for_host(self) -> bool:
        """Whether this is the rank that reports on its host where there is no store to agree on one."""
        return self.env.local_rank == (1 if self.env.rank == self.env.local_rank else 0)

    def close(self) -> None:
        """Leave. A rank zero that hosts the store stays until the others have read what they wanted, 5 s at most."""
        if self.heartbeat is not None:
            self.heartbeat.close()
        self.failure_log.sign_off(self.env.hosts_store)

    def _await(self, key: str, stage: str, missing: Callable[[], list[int]], wait: timedelta | None = None) -> None:
        """Return once `key` is there. Raises PeerLostError where one of the ranks that `missing` names is lost."""
        began = time.monotonic()
        failed_at, say_at = None, began + SOON_S
        with self._at(stage):
            pause, looked = 0.0005, began + _LOOK_AFTER_S - _LOOK_EVERY_S
            while not self.store.check([key]):
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S + _LONGER_PER_RANK_S * self.env.world_size)
                now = time.monotonic()
                if now - looked > _LOOK_EVERY_S and failed_at is None and self._has_failed(stage):
                    failed_at = now
                if failed_at is not None and now - failed_at > _MERGE_S:
                    return  # whatever the others do: they find the failure when they come
                if now > say_at and self.env.is_rank_zero:
                    say_at = now + _SAY_AGAIN_S
                    self._say_waiting(stage, missing(), now - began)
                if wait is not None and now - began > wait.total_seconds():
                    raise PeerLostError(self._too_late(stage, missing(), wait))
                if self.heartbeat is not None and wait is None and now - looked > _LOOK_EVERY_S:
                    looked = now
                    ranks = missing()
                    self.heartbeat.refresh()
                    lost = describe_missing(
                        self.heartbeat.peers(), ranks, self.timeout_s, now - began > self.join_timeout_s
                    )
                    if lost is not None:
                        raise PeerLostError(f"{lost}. This rank waited for it at the stage {stage!r}.")

    def _has_failed(self, stage: str) -> bool:
        """Whether a rank could not do what all do on the way to a stage."""
        return any(one.stage == stage for one in self.failure_log.failures())

    def _say_waiting(self, stage: str, missing: list[int], waited_s: float) -> None:
        seen = {one.rank for one in self.heartbeat.peers()} if self.heartbeat is not None else set()
        never = [rank for rank in missing if rank not in seen and rank != self.env.rank]
        if never:
            limit = f"{waited_s:.0f} of {self.join_timeout_s:g} s"
            text = f"waiting for {render_ranks(never)} of world_size={self.env.world_size} to start ({limit}). "
            log.warning("%s", (text + self.env.hint).rstrip())
        elif missing:
            log.info("waiting for %s at the stage %r (%.0f s)", render_ranks(missing), stage, waited_s)

    def _too_late(self, stage: str, missing: list[int], wait: timedelta) -> str:
        world_size = self.env.world_size
        return (
            f"only {world_size - len(missing)} of world_size={world_size} ranks reached the stage {stage!r} within "
            f"{wait.total_seconds():g} s. Look at the logs of the missing ranks."
        )

    @contextlib.contextmanager
    def _at(self, stage: str) -> Iterator[None]:
        """While this rank waits at a stage, its heartbeat says so."""
        if self.heartbeat is None:
            yield
            return
        self.heartbeat.stage_since, self.heartbeat.stage = time.monotonic(), stage
        try:
            yield
        finally:
            self.heartbeat.stage = ""


def _announced(env: RankEnv, timeout: timedelta) -> contextlib.AbstractContextManager[None]:
    if env.hosts_store or env.local_rank > 1:  # one or two of a node say enough
        return contextlib.nullcontext()
    limit = f"{timeout.total_seconds():g} s at most"
    return announced(f"rank {env.rank} waits for rank 0 at {env.store_address}, {limit}. {env.hint}".rstrip())


def _connect(env: RankEnv, timeout: timedelta) -> Store:
    if env.world_size == 1 and not env.agent_store:
        return HashStore()
    limit_name_lookups(os.environ)
    address = env.master_addr, env.master_port
    if env.hosts_store and (hosted := _hosted.get(address)) is not None:
        hosted.set_timeout(timeout)
        return hosted
    try:
        with _announced(env, timeout):
            store = TCPStore(*address, is_master=env.hosts_store, timeout=timeout, wait_for_workers=False)
        if env.hosts_store:
            _hosted[address] = store
        return store
    except (DistError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        if env.hosts_store and ("EADDRINUSE" in text or "address already in use" in text.lower()):
            raise ConfigError(
                f"MASTER_PORT={env.master_port} is in use on {socket.gethostname()}: rank 0 listens there for its "
                "peers. Export another MASTER_PORT on every rank, or end the process that holds it."
            ) from None
        role = "rank 0 could not listen on" if env.hosts_store else f"rank {env.rank} could not reach rank 0 at"
        raise PeerLostError(f"{role} {env.store_address} within {timeout.total_seconds():g} s: {text}") from None
