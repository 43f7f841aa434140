"""What ranks tell each other about a save, on a store beside the training: each what it has written, rank zero the
outcome. Nobody waits without a limit."""

from __future__ import annotations

import json
import threading
import time
import uuid
from dataclasses import asdict, dataclass

from torch.distributed import PrefixStore, Store

from disttrain.comm.failures import render_ranks

_FIRST_POLL_S = 0.005


@dataclass(frozen=True)
class Shard:
    """What one rank has written of one checkpoint."""

    rank: int
    host: str
    bytes: int = 0
    """0: it had nothing to write."""
    sha256: str = ""
    fault: str = ""
    """Why it could not be written."""


class SaveTimeout(Exception):
    """Another rank has not said what was waited for."""


class SaveAgreement:
    """One rank's end. Saves are numbered alike on all ranks.

    The ranks look at the store every so often instead of waiting on it: so a thread can be told to give up.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._store = PrefixStore("checkpoints", store)
        self._longest_poll_s = min(0.5, 0.02 + world_size / 2000)  # rank zero's host answers all of them
        self._stop = threading.Event()
        if rank == 0:
            self._store.set("start", uuid.uuid4().hex[:8])

    def start_id(self, patience_s: float) -> str:
        """What rank zero has drawn for this start, so that ranks of an earlier one cannot write among these."""
        if not self._poll("start", patience_s):
            raise SaveTimeout("rank 0 has not begun")
        return self._store.get("start").decode()

    def post(self, number: int, shard: Shard) -> None:
        """Say what this rank has written."""
        self._store.set(f"{number}/{self.rank}", json.dumps(asdict(shard)))
        if self._store.add(f"{number}/count", 1) == self.world_size:
            self._store.set(f"{number}/complete", "1")

    def shards(self, number: int, patience_s: float) -> list[Shard]:
        """Rank zero: every rank's shard, once all are there. Raises SaveTimeout that names the ranks which are not."""
        if not self._poll(f"{number}/complete", patience_s):
            silent = [rank for rank in range(self.world_size) if not self._store.check([f"{number}/{rank}"])]
            raise SaveTimeout(f"{render_ranks(silent)} wrote nothing within {patience_s:.0f} s")
        keys = [f"{number}/{rank}" for rank in range(self.world_size)]
        shards = [Shard(**json.loads(self._store.get(key))) for key in keys]
        for key in (*keys, f"{number}/count", f"{number}/complete", f"{number - 1}/outcome"):
            self._store.delete_key(key)
        return shards

    def publish_outcome(self, number: int, fault: str) -> None:
        """Rank zero: say why there is no checkpoint, "" where there is one."""
        self._store.set(f"{number}/outcome", fault or "-")

    def outcome(self, number: int, patience_s: float) -> str:
        """The others: what rank zero has published. Raises SaveTimeout."""
        if not self._poll(f"{number}/outcome", patience_s):
            raise SaveTimeout(f"rank 0 has not said within {patience_s:.0f} s what came of it")
        return self._store.get(f"{number}/outcome").decode().removeprefix("-")

    def stop(self) -> None:
        """Let a wait in another thread end now."""
        self._stop.set()

    def _poll(self, key: str, patience_s: float) -> bool:
        deadline, pause = time.monotonic() + patience_s, _FIRST_POLL_S
        while not self._store.check([key]):
            if time.monotonic() > deadline or self._stop.wait(pause):
                return False
            pause = min(2 * pause, self._longest_poll_s)
        return True
