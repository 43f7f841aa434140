"""What `resolve` answers with: one rank, or one node whose ranks an elastic agent must start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RankEnv:
    """This process is one rank. `agent_store`: torch's elastic agent hosts the TCPStore, so that no rank does.

    `node_rank` is the launcher's own number where it has one; Open MPI and plain variables have none, there it is
    rank // local_world_size, right for equal nodes filled one after the other. Horovod's is right for equal nodes only.
    """

    launcher: str
    rank: int
    local_rank: int
    node_rank: int
    world_size: int
    local_world_size: int
    master_addr: str
    master_port: int
    restart_count: int = 0
    agent_store: bool = False
    run_id: str = ""
    job_id: str = ""
    """The same for all starts of the ranks by one agent, and for all of a job that is requeued, so that a run that was
    told to begin anew does so once."""
    requeues: int = 0
    """How often Slurm has put this job back into its queue (SLURM_RESTART_COUNT)."""
    hint: str = ""
    """A sentence for a user whose other ranks do not come."""

    @property
    def store_address(self) -> str:
        """`node0:29500`, `[::1]:29500`: where the ranks meet."""
        host = f"[{self.master_addr}]" if ":" in self.master_addr else self.master_addr
        return f"{host}:{self.master_port}"

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the rank that writes what exists once per run."""
        return self.rank == 0

    @property
    def on_one_machine(self) -> bool:
        """Whether all ranks run on this machine."""
        return self.world_size == self.local_world_size

    @property
    def hosts_store(self) -> bool:
        """Whether the ranks' store is gone with this process."""
        return self.is_rank_zero and not self.agent_store

    @classmethod
    def alone(cls) -> RankEnv:
        """One process without peers. Port 0: a store, if any is made, takes whichever port is free."""
        return cls("none", 0, 0, 0, 1, 1, "127.0.0.1", 0)


@dataclass(frozen=True)
class NodeEnv:
    """This process is one node of a PyTorchJob or TrainJob: an elastic agent started here must start the ranks."""

    nnodes: str
    nproc_per_node: str
    node_rank: int | None = None
    master_addr: str | None = None
    master_port: int | None = None
    rdzv_backend: str | None = None
    rdzv_endpoint: str | None = None
    rdzv_id: str | None = None
    rdzv_conf: str | None = None
    max_restarts: int = 0
    standalone: bool = False

    def torchrun_arguments(self) -> list[str]:
        """The same as torchrun options. Give torchrun `agent_environ` beside them, not the pod's own variables."""
        options = {
            "--nnodes": self.nnodes,
            "--nproc-per-node": self.nproc_per_node,
            "--node-rank": self.node_rank,
            "--master-addr": self.master_addr,
            "--master-port": self.master_port,
            "--rdzv-backend": self.rdzv_backend,
            "--rdzv-endpoint": self.rdzv_endpoint,
            "--rdzv-id": self.rdzv_id,
            "--rdzv-conf": self.rdzv_conf,
            "--max-restarts": self.max_restarts,
        }
        given = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        return ["--standalone", *given] if self.standalone else given
