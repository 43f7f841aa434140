"""Why ranks end, and how N of them agree on one report under every launcher."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import traceback
from dataclasses import asdict, dataclass
from datetime import timedelta

from torch.distributed import DistError, Store

from disttrain.errors import DisttrainError, PeerLostError

LOST_CONNECTION = "lost the connection to a peer"

_GATHER_S = 0.5  # how long the first rank that fails waits for others with the same message
_ABORTED = "aborted"


@dataclass(frozen=True)
class Failure:
    """Why a rank ends."""

    rank: int
    host: str
    exit_code: int
    message: str
    stage: str = ""
    """The stage that the rank failed on the way to; empty where it ends for a reason of its own."""


class RanksFailed(DisttrainError):
    """Some ranks could not get ready. Raised on every rank; `reporter` is the one that tells the user."""

    def __init__(self, failures: list[Failure], world_size: int, reporter: int = 0) -> None:
        self.reporter = reporter
        super().__init__(render_failures(failures, world_size))
        self.exit_code = failures[0].exit_code


class FailureLog:
    """The failure records of a job on its store. Raises torch's DistError where the store is gone."""

    def __init__(self, store: Store, world_size: int) -> None:
        self.store, self.world_size = store, world_size

    def post(self, failure: Failure) -> int:
        """Say that a rank ends. Returns how many have been posted, this one included."""
        index = self.store.add("failures/reserved", 1) - 1
        self.store.set(f"failures/{index}", json.dumps(asdict(failure)))
        return self.store.add("failures/count", 1)

    def failures(self) -> list[Failure]:
        """All that has been posted, the first one first."""
        count = self.store.add("failures/count", 0)
        entries = [self.store.get(f"failures/{index}") for index in range(count)]
        return [Failure(**json.loads(entry)) for entry in entries]

    def collect(self) -> list[Failure]:
        """All failures, once those had time to come that follow from the same cause."""
        deadline = time.monotonic() + _GATHER_S
        while time.monotonic() < deadline and self.store.add("failures/count", 0) < self.world_size:
            time.sleep(0.02)
        return self.failures()

    def abort(self) -> None:
        """Say, once a failure has been posted, that ranks which still do something else are to end too."""
        self.store.set(_ABORTED, "1")

    def is_aborted(self) -> bool:
        """Whether `abort` has been called on some rank."""
        return self.store.check([_ABORTED])

    def claim_report(self) -> bool:
        """Whether this rank is the one that tells the user: the first that asks."""
        return self.store.add("report/claimed", 1) == 1

    def mark_reported(self) -> None:
        """Say that the user has been told why the job ends."""
        with contextlib.suppress(DistError):
            self.store.set("reported", "1")

    def await_report(self) -> None:
        """Wait for `mark_reported`, 5 s at most: launchers end all ranks once one exits, even one that reports."""
        with contextlib.suppress(DistError):
            self.store.wait(["reported"], timedelta(seconds=5))

    def sign_off(self, hosts_store: bool, absent: int = 0) -> None:
        """Count as gone. A rank that hosts the store stays until the others have read what they wanted, but for
        `absent` ranks that no longer can, and 5 s at most."""
        with contextlib.suppress(DistError):  # the rank that hosts the store has gone first
            gone = self.store.add("gone", 1)
            deadline = time.monotonic() + 5
            while hosts_store and gone < self.world_size - absent and time.monotonic() < deadline:
                time.sleep(0.01)
                gone = self.store.add("gone", 0)


def describe_failure(error: BaseException, rank: int) -> Failure:
    """An exception as a failure: our own errors as they are, a broken connection as a lost peer, others with their
    traceback."""
    host = socket.gethostname()
    if isinstance(error, DisttrainError):
        return Failure(rank, host, error.exit_code, str(error))
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, DistError) or (isinstance(error, RuntimeError) and _speaks_of_peers(str(error))):
        first_line = text.splitlines()[0]
        return Failure(rank, host, PeerLostError.exit_code, f"{LOST_CONNECTION} ({first_line})")
    if isinstance(error, BrokenPipeError):  # `disttrain predict ... | head`
        return Failure(rank, host, 1, "standard output was closed by its reader before all results were written")
    if isinstance(error, KeyboardInterrupt):
        return Failure(rank, host, 130, "interrupted")
    if isinstance(error, OSError) and error.filename is not None:  # a full disk, a lost permission, say
        reason = f"{error.filename}: {error.strerror}. Fix that and run the same command again."
        return Failure(rank, host, 1, reason)
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
