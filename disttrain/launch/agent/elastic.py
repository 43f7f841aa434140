"""The elastic agent itself: torch's, with other decisions about when to stop ranks and when to start them again."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.rendezvous.api import RendezvousError, RendezvousGracefulExitError

from disttrain.errors import ConfigError, PeerLostError, Preempted, say, say_error
from disttrain.launch.agent.forked_rank import ForkServer, forking_from
from disttrain.launch.agent.local_ranks import Cause, LocalRanks
from disttrain.launch.agent.poll import Poll
from disttrain.launch.agent.rendezvous import RoundRendezvous
from disttrain.launch.agent.signals import Interrupted, Signals
from disttrain.launch.env import AGENT_VARIABLE, ROUND_VARIABLE
from disttrain.launch.exit_codes import job_exit_code, may_run_again
from disttrain.launch.stop import STOP_SIGNALS, kill_after_s
from disttrain.system.processes import run_with_timeout
from disttrain.system.waits import announced

_LEAVE_S = 5.0  # for ranks to notice by themselves that a peer is gone, and to report it
_STORE_S = 5.0  # for an answer of the rendezvous, where the agent can do without
_EXIT_BARRIER_S = 30.0  # ranks end together: agents whose ranks have finished need not wait long for the others

_JOINS = "another node joins: training goes on with it from the last checkpoint"


class Agent(LocalElasticAgent):
    """Starts the ranks of this node and watches them to the end of the job."""

    def __init__(
        self, spec: Any, rounds: RoundRendezvous, config: Any, notice_s: float, server: ForkServer | None = None
    ) -> None:
        """`notice_s`: the grace period of ranks that are asked to stop, in seconds. `server`: forks the ranks."""
        super().__init__(
            spec,
            logs_specs=config.logs_specs,
            start_method=config.start_method,
            exit_barrier_timeout=_EXIT_BARRIER_S,
            log_line_prefix_template=config.log_line_prefix_template,
        )
        self._rounds, self._signals, self._stop_s = rounds, Signals(), kill_after_s(notice_s)
        self._max_restarts: int = spec.max_restarts
        self._max_nodes, self._endpoint = config.max_nodes, config.rdzv_endpoint
        self._ranks = LocalRanks({})
        # torch binds a rank to cores on the way to its command.
        self._server = server if getattr(spec, "numa_options", None) is None else None

    def run_job(self) -> int:
        """Start the ranks, and again while that helps; the exit code of the job.

        Raises PeerLostError where the other nodes cannot be reached or do not come.
        """
        with self._signals.restored():
            return self._run_rounds()

    def _run_rounds(self) -> int:
        code: int | None = None
        try:
            while code is None:
                self._start_round()
                code = self._watch()
            return code
        except Interrupted:
            return self._stopped_by_signal()
        except RendezvousGracefulExitError:
            say("the job has ended without need of this node")
            return 0
        finally:
            self._ranks.end_within(0)
            self._shutdown()
            if code is not None and not _may_go_on(code):  # else the same job, run again, may meet here
                with contextlib.suppress(Exception):  # its store may have gone with another node
                    run_with_timeout(_STORE_S, self._rounds.shutdown)

    def _start_round(self) -> None:
        group, self._ranks = self._worker_group, LocalRanks({})
        if self._server is not None:
            self._server.start()  # again, where it was lost
        try:
            with self._signals.raising(), self._announced():
                self._rendezvous(group)
        except RendezvousGracefulExitError:
            raise
        except (RendezvousError, DistError) as error:
            text = str(error) or type(error).__name__
            if "EADDRINUSE" in text:
                raise ConfigError(f"the port of --master-port is in use here: {text}. Give another one.") from error
            raise PeerLostError(f"rendezvous failed: {text}. Run the same command again.") from error
        if self._server is not None:
            with self._signals.raising(), announced("waiting for the import of torch"):
                self._server.wait_ready()
        # torch would have its own handlers, which raise wherever the agent just is, also half-way through a start.
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""
        os.environ[ROUND_VARIABLE] = self._rounds.round_id
        os.environ[AGENT_VARIABLE] = str(os.getpid())
        self._remaining_restarts = max(0, self._max_restarts - self._rounds.restarts)  # what torch tells the ranks
        self._signals.listen()  # not before: until there are ranks, a signal may just end this process
        with forking_from(self._server):
            self._start_workers(group)
        self._signals.listen()  # a torch that does not know the variable
        assert isinstance(self._pcontext, SubprocessContext)
        started = self._pcontext.subprocess_handlers
        self._ranks = LocalRanks({one.global_rank: started[one.local_rank].proc for one in group.workers})

    def _announced(self) -> contextlib.AbstractContextManager[None]:
        if self._max_nodes == 1:
            return contextlib.nullcontext()
        return announced(f"waiting for the other nodes of the job, {self._max_nodes} at most, at {self._endpoint}")

    def _watch(self) -> int | None:
        """Until this round ends: the exit code of the job, or None for another round."""
        ranks, nodes_waiting = self._ranks, Poll(self._rounds.num_nodes_waiting)
        while True:
            time.sleep(self._worker_group.spec.monitor_interval)
            ranks.poll()
            if self._signals.received is not None:
                return self._stopped_by_signal()
            if ranks.failed:
                return self._after_failure()
            if not ranks.running:
                return self._finished()
            try:
                if (nodes_waiting() or 0) > 0:
                    return self._on_nodes_waiting()
            except (RendezvousError, DistError):
                return self._after_loss_of_host()

    def _after_failure(self) -> int | None:
        """A rank of this node has ended badly."""
        ranks, rounds = self._ranks, self._rounds
        cause = ranks.cause()
        lost, says_why = _located(cause), cause.exit_code != PeerLostError.exit_code
        with _host_may_be_gone():  # at once: the other nodes look for it when this one waits for the next round
            run_with_timeout(_STORE_S, lambda: rounds.post_note("lost", lost, replace=says_why))
        ranks.end_within(self._stop_s if cause.exit_code == Preempted.exit_code else _LEAVE_S)
        last = ranks.cause()
        with _host_may_be_gone():
            if run_with_timeout(_STORE_S, lambda: rounds.read_note("joins")) is not None and _may_go_on(last.exit_code):
                say(_JOINS)
                return None
            if last != cause:
                run_with_timeout(_STORE_S, lambda: rounds.post_note("lost", _located(last), replace=True))
            lost = run_with_timeout(_STORE_S, lambda: rounds.read_note("lost")) or lost
        return self._restart(lost, last.exit_code)

    def _on_nodes_waiting(self) -> int | None:
        """Other nodes wait for the next round: new ones, or those of this round that have lost a rank."""
        ranks, rounds = self._ranks, self._rounds
        if (lost := rounds.read_note("lost")) is not None:
            ranks.end_within(_LEAVE_S)
            code = ranks.cause().exit_code if ranks.failed else PeerLostError.exit_code
            return self._restart(lost, code)
        # Before a rank is asked to stop: ranks that leave without this note are preempted.
        rounds.post_note("joins", "1")
        ranks.send(STOP_SIGNALS[0])
        ranks.end_within(self._stop_s)
        if not ranks.failed:
            return self._finished()
        code = ranks.cause().exit_code
        if not _may_go_on(code):
            return code
        say(_JOINS)
        return None

    def _restart(self, lost: str, code: int) -> int | None:
        """None where the loss of a rank leads to another round."""
        if not may_run_again(code):
            if killed := self._ranks.killed:  # maybe the one that was to say why the job ends
                say(_located(Cause(killed[0], "had not ended with its peers and was killed", code)))
            return code
        most = self._max_restarts
        if self._rounds.restarts >= most:
            if most or self._ranks.was_killed_externally:  # else the ranks have said why they end
                used_up = f", and all {most} restarts are used up" if most else ""
                say_error(f"{lost}{used_up}. Run the same command again to go on.")
            return code
        self._rounds.restarts += 1
        say(f"{lost}: restart {self._rounds.restarts} of {most}, training goes on from the last checkpoint")
        return None

    def _after_loss_of_host(self) -> int:
        """The node that hosts the rendezvous is gone, and with it its ranks: those here lose a peer."""
        self._ranks.end_within(_LEAVE_S)
        if not self._ranks.failed:
            return 0
        say_error("the node at --rdzv-endpoint, where the others meet, is gone. Run the same command again to go on.")
        code = self._ranks.cause().exit_code
        return PeerLostError.exit_code if may_run_again(code) else code

    def _stopped_by_signal(self) -> int:
        """This agent was sent a signal: the ranks get it too, and time to act on it."""
        number = self._signals.received
        assert number is not None
        ranks, asks = self._ranks, number in STOP_SIGNALS
        ranks.send(number)
        ranks.end_within(self._stop_s if asks else _LEAVE_S)
        if ranks.killed:
            say(f"{len(ranks.killed)} ranks had not stopped in time and were killed: the last checkpoint stands")
        if ranks.ended and not ranks.failed:
            return self._finished()
        usual = Preempted.exit_code if asks else 128 + int(number)
        codes = [job_exit_code(code) for rank, code in ranks.failed.items() if rank not in ranks.killed]
        codes = [code for code in codes if asks or code < 128]
        return min(codes, default=usual, key=lambda code: (code >= 128, code != PeerLostError.exit_code))

    def _finished(self) -> int:
        """Wait for the other nodes, one of which may need the store here. No other round begins any more."""
        with _host_may_be_gone():
            self._rounds.set_closed()
        self._exit_barrier()
        return 0


def _may_go_on(code: int) -> bool:
    """Whether ranks that were stopped for another node can be started again: that they were is no reason not to."""
    return code == Preempted.exit_code or may_run_again(code)


def _located(cause: Cause) -> str:
    return f"rank {cause.rank} on {socket.gethostname()} {cause.what}"


@contextlib.contextmanager
def _host_may_be_gone() -> Iterator[None]:
    """For notes between the nodes without which this one goes on."""
    with contextlib.suppress(DistError, RendezvousError, TimeoutError):
        yield
