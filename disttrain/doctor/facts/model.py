"""The facts of one process, as they travel to rank zero in JSON. What could not be found out is None, or absent."""

from __future__ import annotations

from pydantic import BaseModel


class FactGroup(BaseModel):
    """Base: what another version of disttrain sends beside the fields here is left out."""


class Versions(FactGroup):
    """Versions by name, of what is installed here."""

    found: dict[str, str] = {}
    """`python`, `disttrain`, `torch`, `torchvision`, `numpy`, `ray`, `cuda` (torch's), `nccl`, `driver`, ..."""
    driver_cuda: str | None = None
    """The newest CUDA that the driver runs."""
    pins: dict[str, tuple[str, str | None]] = {}
    """Libraries that torch wants in one version: name -> (wanted, installed)."""
    torch_error: str | None = None
    """Why torch cannot be imported, where that was tried."""
    horovod_error: str | None = None
    """What is wrong with the installed Horovod; None also where there is none."""
    mpi: str | None = None
    """`Open MPI 4`: that of the mpirun on the PATH."""
    horovod_mpi: str | None = None
    """The MPI that Horovod is built with, `gloo` where it is built without one."""


class Gpu(FactGroup):
    """One physical GPU. Sizes in bytes."""

    uuid: str
    name: str
    memory: int | None = None
    memory_used: int | None = None
    processes: int | None = None
    uncorrected_errors: int | None = None
    remap: str | None = None
    """`pending` or `failed`: rows of its memory that are to be, or could not be, remapped."""
    slowed: list[str] = []
    """Why it runs below its clocks, as far as that is a defect: heat, power supply."""
    links: int | None = None
    """NVLink connections that are up."""


class Gpus(FactGroup):
    """The GPUs of this machine."""

    error: str | None = None
    """Why NVML does not answer although there are devices of GPUs."""
    devices: int = 0
    """/dev/nvidia0 and so on."""
    all: list[Gpu] | None = None
    """None where nobody can be asked: no driver, or no nvidia-ml-py."""
    visible: list[str] | None = None
    """UUIDs of those that this process may use, in CUDA's order; None where that is not known."""
    unknown: list[str] = []
    """Entries of CUDA_VISIBLE_DEVICES that name no GPU here."""
    far: list[str] = []
    """Pairs of GPUs that reach each other only over the link between processors, `0-4`, and have no NVLink."""


class Network(FactGroup):
    """How this host reaches rank zero's."""

    interfaces: dict[str, bool] = {}
    """Name -> whether it is up."""
    infiniband: list[str] = []
    host_name_error: str | None = None
    """Why this host's own name has no address."""
    lookup_s: float | None = None
    """How long it took to look up this host's name and rank zero's."""
    towards: str | None = None
    """The interface that leads to rank zero's host, or from there to another one; empty where there is no route."""
    port_error: str | None = None
    """On rank zero: why nobody can listen at MASTER_PORT."""


class System(FactGroup):
    """Limits of this process and its container. Sizes in bytes."""

    cpus: list[int] = [0]
    """Numbers of the cores in this process's CPU mask."""
    quota: float | None = None
    """Cores that the container's CPU time amounts to."""
    memory_available: int | None = None
    shm_size: int | None = None
    shm_free: int | None = None
    open_files: int | None = None
    """The hard limit; None: unlimited."""
    locked_memory: int | None = None
    tmp: str = ""
    tmp_error: str | None = None


class Disk(FactGroup):
    """The run directory and the data, as this host sees them. Sizes in bytes."""

    run_dir: str | None = None
    run_dir_error: str | None = None
    file_system: str = ""
    free: int | None = None
    write_speed: float | None = None
    """Bytes per second, flushed."""
    checkpoint: int | None = None
    """Size of one checkpoint of this run."""
    shared_error: str | None = None
    """Why this node does not see what rank zero has just written to the run directory; None: it does."""
    data: str | None = None
    data_error: str | None = None


class Wanted(FactGroup):
    """What the config asks for."""

    config: str | None = None
    config_error: str | None = None
    device: str = "auto"
    backend: str = "ddp"
    notice_s: float = 30.0
    keep: int = 3
    loader_workers: int = 2


class Job(FactGroup):
    """What rank zero alone finds out: about those that did not come, and how all talk together."""

    met: bool = False
    """Whether the ranks were to meet at all."""
    meeting_error: str | None = None
    """On rank zero: why there is no port to meet at."""
    missing: list[int] = []
    missing_hosts: dict[int, str] = {}
    """The host of a missing rank, where the launcher tells it."""
    waited_s: float = 0.0
    twice: dict[int, list[str]] = {}
    """Hosts of a rank that several processes take themselves for."""
    lost: dict[int, str] = {}
    """Ranks that were there and then did not answer, and why."""
    backend: str = ""
    allreduce_s: dict[int, float] = {}
    """Seconds of one allreduce by its size in bytes."""
    allreduce_error: str | None = None
    not_tried: str | None = None
    """Why there was no allreduce although there are several ranks."""


class Facts(FactGroup):
    """All that one process knows."""

    host: str
    launcher: str = "none"
    launch_error: str | None = None
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    ranks_here: int = 1
    """Ranks that train on this host: local_world_size, or more where the doctor has one process a node."""
    master_addr: str = ""
    master_port: int = 0
    environ: dict[str, str] = {}
    """Variables of those that matter here."""
    wanted: Wanted = Wanted()
    versions: Versions = Versions()
    gpus: Gpus = Gpus()
    network: Network = Network()
    system: System = System()
    disk: Disk = Disk()
    job: Job = Job()
    clock_offset_s: float | None = None
    """By how much this host's clock is ahead of rank zero's, at least."""

    @property
    def on_one_machine(self) -> bool:
        """Whether all ranks run here."""
        return self.world_size == self.local_world_size
