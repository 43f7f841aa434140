"""The ranks' notice board: a key-value store beside the process group, there before it and after it breaks.

On it ranks agree that all are ready, and say why one is not, so that N ranks give one report under every launcher.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TypeVar, cast

from torch.distributed import DistError, HashStore, PrefixStore, Store, TCPStore

from disttrain.errors import ConfigError, DisttrainError, PeerLostError
from disttrain.launch_env import RankEnv

T = TypeVar("T")

_LONG_WAIT = timedelta(hours=4)  # for work whose length depends on the data, such as decoding it for the first time
_boards_made: Counter[str] = Counter()
_GATHER_S = 0.5  # how long the first rank that fails waits for others with the same message


@dataclass(frozen=True)
class Failure:
    """Why a rank ends."""

    rank: int
    host: str
    exit_code: int
    message: str


class RanksFailed(DisttrainError):
    """Some ranks could not get ready. Raised on every rank, so that rank zero alone reports it."""

    def __init__(self, failures: list[Failure], world_size: int) -> None:
        super().__init__(render_failures(failures, world_size))
        self.exit_code = failures[0].exit_code


class Board:
    """One rank's access to the board."""

    def __init__(self, env: RankEnv, timeout_s: float) -> None:
        """Connect to the store. Raises ConfigError (its port is in use) or PeerLostError (nobody answers)."""
        self.env, self._sent = env, 0
        run = f"disttrain/{env.run_id}/{env.restart_count}"
        _boards_made[run] += 1  # a program may train twice: each time on a board without the notices of the last
        prefix = f"{run}/{_boards_made[run]}"
        self.store: Store = PrefixStore(prefix, _connect(env, timedelta(seconds=timeout_s)))

    def agree(self, stage: str, failure: Failure | None = None, wait: timedelta = _LONG_WAIT) -> list[Failure]:
        """Wait until every rank has reached `stage`; what failed on the way there, the first one first.

        Raises PeerLostError where some rank has not come within the timeout.
        """
        if failure is not None:
            self._append("failures", failure)
        if self.store.add(f"{stage}/count", 1) == self.env.world_size:
            self.store.set(f"{stage}/complete", "1")
        try:
            self.store.wait([f"{stage}/complete"], wait)
        except DistError:
            arrived = self.store.add(f"{stage}/count", 0)
            raise PeerLostError(
                f"only {arrived} of world_size={self.env.world_size} ranks reached the stage {stage!r} within "
                f"{wait.total_seconds():g} s. Look at the logs of the missing ranks."
            ) from None
        return self.failures()

    def together(self, stage: str, work: Callable[[], T], first: bool = True) -> T:
        """Do `work` on every rank and go on only if all of them could; ranks with `first` do it before the others.

        Raises RanksFailed on every rank where one of them raised an exception, PeerLostError where one is missing.
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
            if failures := self.agree(f"{stage}/{'first' if turn else 'rest'}", failure):
                raise RanksFailed(failures, self.env.world_size)
        return cast(T, result)

    def total(self, name: str, value: int) -> int:
        """The sum of every rank's value."""
        self.store.add(f"total/{name}", value)
        self.agree(f"total/{name}")
        return self.store.add(f"total/{name}", 0)

    def from_rank_zero(self, name: str, text: str | None) -> str:
        """The text that rank zero gives, on every rank."""
        if self.env.is_rank_zero:
            self.store.set(f"from_rank_zero/{name}", text or "")
        self.store.wait([f"from_rank_zero/{name}"], _LONG_WAIT)
        return self.store.get(f"from_rank_zero/{name}").decode()

    def send(self, text: str) -> None:
        """Put a piece of text there for rank zero, which reads this rank's pieces in order; an empty one ends them."""
        self.store.set(f"text/{self.env.rank}/{self._sent}", text)
        self._sent += 1

    def receive(self, rank: int) -> Iterator[str]:
        """The pieces that `rank` sends, up to the empty one."""
        for index in itertools.count():
            key = f"text/{rank}/{index}"
            self.store.wait([key], _LONG_WAIT)
            piece = self.store.get(key).decode()
            self.store.delete_key(key)
            if not piece:
                return
            yield piece

    def post(self, failure: Failure) -> int:
        """Say that this rank ends. Returns how many ranks have said so, this one included."""
        return self._append("failures", failure)

    def reported(self) -> None:
        """Say that the user has been told why the job ends."""
        with contextlib.suppress(DistError):
            self.store.set("reported", "1")

    def await_report(self) -> None:
        """Wait for `reported`, 5 s at most: launchers end all ranks as soon as one exits, also one about to report."""
        with contextlib.suppress(DistError):
            self.store.wait(["reported"], timedelta(seconds=5))

    def failures(self) -> list[Failure]:
        """All that has been posted, the first one first."""
        count = self.store.add("failures/count", 0)
        entries = [self.store.get(f"failures/{index}") for index in range(count)]
        return [Failure(**json.loads(entry)) for entry in entries]

    def gathered_failures(self) -> list[Failure]:
        """All failures, once those had time to come that follow from the same cause."""
        deadline = time.monotonic() + _GATHER_S
        while time.monotonic() < deadline and self.store.add("failures/count", 0) < self.env.world_size:
            time.sleep(0.02)
        return self.failures()

    def settle_failure(self, error: BaseException) -> tuple[int, str | None]:
        """The job's exit code, and what to tell the user: None where another rank tells, and by now has."""
        if isinstance(error, RanksFailed):
            if self.env.is_rank_zero:
                return error.exit_code, str(error)
            self.await_report()
            return error.exit_code, None
        failure = describe_failure(error, self.env.rank)
        try:
            if self.post(failure) > 1:
                self.await_report()
                return self.failures()[0].exit_code, None
            failures = self.gathered_failures()
        except DistError:  # the rank that hosted the store is the one that was lost
            failures = [failure]
        return failures[0].exit_code, render_failures(failures, self.env.world_size)

    def close(self) -> None:
        """Leave. A rank zero that hosts the store stays until the others have read what they wanted, 5 s at most."""
        with contextlib.suppress(DistError):  # the rank that hosts the store has gone first
            gone = self.store.add("gone", 1)
            deadline = time.monotonic() + 5
            while self.env.is_rank_zero and gone < self.env.world_size and time.monotonic() < deadline:
                time.sleep(0.01)
                gone = self.store.add("gone", 0)

    def _append(self, name: str, failure: Failure) -> int:
        index = self.store.add(f"{name}/reserved", 1) - 1
        self.store.set(f"{name}/{index}", json.dumps(asdict(failure)))
        return self.store.add(f"{name}/count", 1)


def _connect(env: RankEnv, timeout: timedelta) -> Store:
    if env.world_size == 1 and not env.agent_store:
        return HashStore()
    hosts_store = env.is_rank_zero and not env.agent_store
    try:
        return TCPStore(
            env.master_addr, env.master_port, is_master=hosts_store, timeout=timeout, wait_for_workers=False
        )
    except (DistError, RuntimeError, ValueError) as error:
        address = f"{env.master_addr}:{env.master_port}"
        text = " ".join(str(error).split())
        if hosts_store and ("EADDRINUSE" in text or "address already in use" in text.lower()):
            raise ConfigError(
                f"MASTER_PORT={env.master_port} is in use on {socket.gethostname()}: rank 0 listens there for its "
                "peers. Export another MASTER_PORT on every rank, or end the process that holds it."
            ) from None
        role = "rank 0 could not listen on" if hosts_store else f"rank {env.rank} could not reach rank 0 at"
        raise PeerLostError(f"{role} {address} within {timeout.total_seconds():g} s: {text}") from None


def describe_failure(error: BaseException, rank: int) -> Failure:
    """An exception as a failure: our own errors as they are, a broken connection as a lost peer, others with their
    traceback."""
    host = socket.gethostname()
    if isinstance(error, DisttrainError):
        return Failure(rank, host, error.exit_code, str(error))
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, DistError) or (isinstance(error, RuntimeError) and _speaks_of_peers(str(error))):
        first_line = text.splitlines()[0]
        return Failure(rank, host, PeerLostError.exit_code, f"lost the connection to a peer ({first_line})")
    if isinstance(error, BrokenPipeError):  # `disttrain predict ... | head`
        return Failure(rank, host, 1, "standard output was closed by its reader before all results were written")
    if isinstance(error, KeyboardInterrupt):
        return Failure(rank, host, 130, "interrupted")
    return Failure(rank, host, 1, f"{text}\n{''.join(traceback.format_exception(error)).rstrip()}")


def _speaks_of_peers(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in ("gloo", "nccl", "connection closed by peer", "connection reset by peer"))


def render_failures(failures: list[Failure], world_size: int) -> str:
    """One report: the first failure first, equal messages once with their ranks.

    Ranks that merely lost a peer say nothing new once the peer has said why.
    """
    causes = [one for one in failures if one.exit_code != PeerLostError.exit_code] or failures[:1]
    ranks_by_message: dict[str, list[Failure]] = {}
    for failure in causes:
        ranks_by_message.setdefault(failure.message, []).append(failure)
    lines = []
    for message, group in ranks_by_message.items():
        ranks = [one.rank for one in group]
        where = "" if len(ranks) == world_size else f"[{render_ranks(ranks)} on {group[0].host}] "
        lines.append(where + message)
    return "\n".join(lines)


def render_ranks(ranks: list[int]) -> str:
    """`rank 3`, `ranks 0-3,7`."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"rank {text}" if len(set(ranks)) == 1 else f"ranks {text}"
