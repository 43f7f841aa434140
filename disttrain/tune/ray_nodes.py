"""A trial's training whose ranks are on several nodes of a cluster: a bundle, a host and an elastic agent on each."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from disttrain.errors import PeerLostError
from disttrain.launch.exit_codes import may_run_again
from disttrain.tune.training import Part, Training, TrainingHost, train_command

_TOGETHER_S = 15.0  # until the agents of all nodes have ended after the first of them
_ANSWER_S = 20.0  # of a node that is asked to end its ranks; a frozen one does not answer


class NodeHost:
    """Starts and follows the ranks of one node. On other nodes than the first it is an actor of the trial's worker, and
    ends with it."""

    def __init__(self, preload: Sequence[str], threads: int, folder: str) -> None:
        with contextlib.suppress(OSError):  # on another machine there may be no such folder
            os.chdir(folder)
        self._host = TrainingHost(preload, threads)
        self._training: Training | None = None

    def address(self) -> str:
        """By which the other nodes of the cluster reach this one."""
        import ray

        return str(ray.util.get_node_ip_address())

    def start(self, run_dir: str, begin_from: str, part: Part) -> None:
        """Start the node's agent, which starts its ranks."""
        part = part._replace(address=self.address())
        self._training = self._host.start(Path(run_dir), train_command(Path(run_dir), begin_from, part))

    def poll(self) -> int | None:
        """The agent's exit code, None while it runs."""
        return self._training.poll() if self._training else None

    def ask_to_stop(self) -> None:
        """See Training."""
        if self._training is not None:
            self._training.ask_to_stop()

    def kill(self) -> None:
        """See Training."""
        if self._training is not None:
            self._training.kill()

    def why(self) -> str:
        """See Training."""
        return self._training.why() if self._training else ""

    def close(self) -> None:
        """End it, and with it what it has started."""
        self.kill()
        self._host.close()


class OtherNodes:
    """The hosts on a trial's nodes but the first one, where its worker is."""

    def __init__(self, count: int, bundle: Mapping[str, float], *host: Any) -> None:
        """`host`: the arguments of NodeHost."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = ray.util.get_current_placement_group()
        remote = ray.remote(NodeHost)
        self.hosts = [
            remote.options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
            ).remote(*host)
            for index in range(1, count + 1)
        ]

    def close(self) -> None:
        """End them. The kernel ends their ranks with them."""
        import ray

        for one in self.hosts:
            ray.kill(one)
        self.hosts = []


class TrainingOnNodes:
    """A training that has been started on all of its nodes, with what is used of `Training`."""

    def __init__(self, run_dir: Path, begin_from: str, ranks: int, here: NodeHost, others: OtherNodes) -> None:
        """`ranks`: on each node."""
        import ray

        self.run_dir, self._here, self._hosts = run_dir, here, others.hosts
        nodes, address = 1 + len(self._hosts), here.address()
        self._codes: list[int | None] = [None] * nodes
        self._first_code_at: float | None = None
        endpoint = f"{address}:{_free_port()}"
        part = Part(0, nodes, ranks, endpoint, f"{run_dir.name}-{secrets.token_hex(4)}", address)
        started = [
            host.start.remote(str(run_dir), begin_from, part._replace(node=node))
            for node, host in enumerate(self._hosts, 1)
        ]
        here.start(str(run_dir), begin_from, part)
        ray.get(started)
        self._asked = [one.poll.remote() for one in self._hosts]

    def poll(self) -> int | None:
        """The job's exit code; None while it runs on any node. Raises PeerLostError where one of them is lost."""
        self._codes = [self._here.poll(), *(self._poll_other(at) for at in range(len(self._hosts)))]
        failed = [one for one in self._codes if one]
        if not failed:
            return None if None in self._codes else 0
        self._first_code_at = self._first_code_at or time.monotonic()
        if None in self._codes and time.monotonic() - self._first_code_at < _TOGETHER_S:
            return None
        return min(failed, key=may_run_again)  # what a node knows of its own, not that it has lost the other

    def _poll_other(self, at: int) -> int | None:
        """What another node has said last; it is asked again as soon as it has answered, and nobody waits for it."""
        import ray

        ready, _ = ray.wait([self._asked[at]], timeout=0)
        if ready:
            try:
                self._codes[at + 1] = ray.get(ready[0])
            except ray.exceptions.RayError as error:
                self._here.kill()
                raise PeerLostError(f"node {at + 1} of the trial is lost: {type(error).__name__}") from None
            self._asked[at] = self._hosts[at].poll.remote()
        return self._codes[at + 1]

    def ask_to_stop(self) -> None:
        """See Training."""
        self._here.ask_to_stop()
        for one in self._hosts:
            one.ask_to_stop.remote()

    def kill(self) -> None:
        """See Training. A node that does not answer has none of the ranks that write but for its part of a checkpoint,
        which is no checkpoint without the others'."""
        import ray

        asked = [one.kill.remote() for one in self._hosts]
        self._here.kill()
        ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_S)

    def why(self) -> str:
        """See Training: of the node whose exit code counts."""
        import ray

        failed = [at for at, code in enumerate(self._codes) if code]
        at = min(failed, key=lambda one: may_run_again(self._codes[one] or 0), default=0)
        try:
            return self._here.why() if at == 0 else str(ray.get(self._hosts[at - 1].why.remote(), timeout=_ANSWER_S))
        except ray.exceptions.RayError:
            return ""


def _free_port() -> int:
    """Of this node, for the nodes of a training to meet."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])
