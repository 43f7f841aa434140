"""torch's rendezvous, with what each round of it must settle for our ranks.

A round is one start of the ranks on all nodes. For each the nodes agree on an id, which keeps the keys of the ranks'
store apart from those of earlier rounds, and tells that it is of the same job; on how many restarts there have been,
so that a node that came later counts like the others; and on the store on which the ranks meet. torch would keep the
store's address from the first round on, which fails nodes that join a running job and, where its host was lost, those
that remain.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from typing import Any, cast

from torch.distributed import DistError, PrefixStore, Store, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
    dynamic_rendezvous,
)
from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError, RendezvousTimeoutError

from disttrain.launch.env import JOB_VARIABLE

_STATIC_TIMEOUT_S = 600.0  # as long as torch's other rendezvous wait for their nodes


class RoundRendezvous(RendezvousHandler):
    """A rendezvous handler around one of torch's own."""

    def __init__(self, handler: RendezvousHandler) -> None:
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # torch's own store for the ranks; see above
        # In each step of a meeting torch looks for the name of the calling method, for an event that nobody records, by
        # inspect.stack(): 0.12 s of processor time. On a busy machine nodes were never quick enough to put themselves
        # on the list that their peers' heartbeats change every 2 s.
        cast(Any, dynamic_rendezvous).get_method_name = lambda depth=2: ""
        self._handler = handler
        self._store: Store | None = None
        self._server: TCPStore | None = None
        self.round_id = ""
        """`JOB.NUMBER`: the job keeps its name from the first round on."""
        self._round = -1
        self.restarts = 0
        """How often the ranks have been started again because one was lost."""

    @property
    def use_agent_store(self) -> bool:
        """The store at MASTER_ADDR:MASTER_PORT is the agent's: no rank hosts it."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Meet the other nodes. Raises RendezvousError where that fails."""
        found = self._handler.next_rendezvous()
        try:
            return self._agree_on_round(found)
        except DistError as error:
            raise RendezvousConnectionError(f"the nodes of a round could not agree: {error}") from error

    def _agree_on_round(self, found: RendezvousInfo) -> RendezvousInfo:
        static = self.get_backend() == "static"
        store = self._store = _next_static_round(found.store, found.world_size) if static else found.store
        job, _, _ = self.round_id.partition(".")
        store.set(f"disttrain/before/{found.rank}", json.dumps([self._round, self.restarts, job]))
        if found.rank == 0:
            found_before = store.multi_get([f"disttrain/before/{rank}" for rank in range(found.world_size)])
            rounds, restarts, jobs = zip(*map(json.loads, found_before), strict=True)
            job = max(zip(rounds, jobs, strict=True))[1] or os.environ.get(JOB_VARIABLE) or uuid.uuid4().hex[:8]
            meeting = found.bootstrap_store_info
            assert meeting is not None
            address, port = meeting.master_addr, meeting.master_port
            if not static:  # with the static rendezvous only the address that the user gave may be open
                self._server = TCPStore(address, 0, is_master=True, wait_for_workers=False)
                port = self._server.port
            store.set("disttrain/round", json.dumps([job, max(rounds) + 1, max(restarts), address, port]))
        job, self._round, self.restarts, address, port = json.loads(store.get("disttrain/round"))
        self.round_id = f"{job}.{self._round}"
        return RendezvousInfo(store, found.rank, found.world_size, RendezvousStoreInfo(address, port))

    def post_note(self, name: str, text: str, replace: bool = False) -> None:
        """Leave a note for the other nodes of this round; the first one stays, unless it is to be replaced."""
        assert self._store is not None
        if replace:
            self._store.set(f"disttrain/{name}", text)
        else:
            self._store.compare_set(f"disttrain/{name}", "", text)

    def read_note(self, name: str) -> str | None:
        """A note of this round, None where there is none."""
        assert self._store is not None
        key = f"disttrain/{name}"
        return self._store.get(key).decode() if self._store.check([key]) else None

    def get_backend(self) -> str:
        """See torch."""
        return str(self._handler.get_backend())

    def is_closed(self) -> bool:
        """See torch."""
        return bool(self._handler.is_closed())

    def set_closed(self) -> None:
        """See torch."""
        self._handler.set_closed()

    def num_nodes_waiting(self) -> int:
        """See torch."""
        return int(self._handler.num_nodes_waiting())

    def get_run_id(self) -> str:
        """See torch."""
        return str(self._handler.get_run_id())

    def shutdown(self) -> bool:
        """See torch."""
        return bool(self._handler.shutdown())


def _next_static_round(store: Any, nodes: int) -> Store:
    """The static rendezvous knows one round only, and no waiting for each other. Here each node counts itself in."""
    round_number = (store.add("disttrain/arrivals", 1) - 1) // nodes
    deadline = time.monotonic() + _STATIC_TIMEOUT_S
    while store.add("disttrain/arrivals", 0) < (round_number + 1) * nodes:
        if time.monotonic() > deadline:
            raise RendezvousTimeoutError(f"not all of {nodes} nodes came within {_STATIC_TIMEOUT_S:g} s")
        time.sleep(0.1)
    return PrefixStore(f"disttrain/round_{round_number}", store)
