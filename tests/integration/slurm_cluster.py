"""A real Slurm cluster of two nodes on this machine, up in a second or two.

Controller and nodes have a network namespace each, so that nothing of the machine's own network is touched, `localhost`
means another node to each, and a node can be cut off. A node's processes are those of its namespace: they are killed
together, as by a power cut. GPUs are character devices that nobody opens. Needs root and Debian's Slurm.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NODES = ("node1", "node2")
_NETWORK = "10.77.0"
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare")
_CONF = """
ClusterName=test
SlurmctldHost=control({network}.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# also how long a job waits before it starts again (below 5 it is 120)
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdTimeout=10
MessageTimeout=5
KillWait=10
CompleteWait=0
PartitionName=debug Nodes=ALL Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
NodeName=node1 NodeHostname=node1 NodeAddr={network}.11 CPUs=4 RealMemory=8000 Gres=gpu:2
NodeName=node2 NodeHostname=node2 NodeAddr={network}.12 CPUs=4 RealMemory=8000 Gres=gpu:2
"""


def why_not() -> str:
    """The reason for which no cluster can be started here; empty where one can."""
    if os.geteuid() != 0:
        return "a Slurm cluster needs root, for its nodes' network namespaces"
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed (Debian: tests/system_packages.sh)" if missing else ""


class SlurmCluster:
    """Two nodes, `node1` and `node2`, with four CPUs each. They see the files of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._name = f"slurm-{os.getpid()}"
        self._conf = folder / "slurm.conf"
        self.private = folder / "private"
        """A folder on a disk of each node's own."""

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[SlurmCluster]:
        """A cluster, taken down with all its processes at the end."""
        # Not pytest's folder: munged takes no socket below one that is closed to other users.
        cluster = cls(Path(tempfile.mkdtemp(prefix="slurm-")))
        try:
            cluster._start()
            yield cluster
        finally:
            for host in ("control", *NODES):
                cluster._kill(host)
                subprocess.run(["ip", "netns", "delete", cluster._namespace(host)], check=False, capture_output=True)
            shutil.rmtree(cluster.folder, ignore_errors=True)

    def _namespace(self, host: str) -> str:
        return f"{self._name}-{host}"

    def _start(self) -> None:
        folder = self.folder
        folder.chmod(0o755)
        self._conf.write_text(_CONF.format(folder=folder, network=_NETWORK))
        addresses = {"control": 1, "node1": 11, "node2": 12}
        lines = [f"{_NETWORK}.{number} {host}" for host, number in addresses.items()]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        (folder / "resolv.conf").write_text("")  # no name server: an unknown name fails at once
        self.private.mkdir()
        for number in range(2):
            _run("mknod", "-m", "666", str(folder / f"nvidia{number}"), "c", "1", "3")
        gpus = f"Name=gpu Flags=nvidia_gpu_env File={folder}/nvidia[0-1]"
        (folder / "gres.conf").write_text(f"AutoDetect=off\nNodeName=node[1-2] {gpus}\n")
        for host in addresses:
            _run("ip", "netns", "add", self._namespace(host))
            _run("ip", "-n", self._namespace(host), "link", "set", "lo", "up")
        control = self._namespace("control")
        _run("ip", "-n", control, "link", "add", "bridge0", "type", "bridge")
        _run("ip", "-n", control, "address", "add", f"{_NETWORK}.1/24", "dev", "bridge0")
        _run("ip", "-n", control, "link", "set", "bridge0", "up")
        for node in NODES:
            space = self._namespace(node)
            _run("ip", "-n", control, "link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "-n", control, "link", "set", node, "master", "bridge0", "up")
            _run("ip", "-n", space, "address", "add", f"{_NETWORK}.{addresses[node]}/24", "dev", "eth0")
            _run("ip", "-n", space, "link", "set", "eth0", "up")
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        munge = [f"--{name}={folder}/munge.{end}" for name, end in (("key-file", "key"), ("socket", "socket"))]
        munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
        self._on("control", "munged", *munge)
        (folder / "state").mkdir()
        self._on("control", "slurmctld", "-i")
        for node in NODES:
            (folder / f"spool_{node}").mkdir()
            self.start_node(node)
        self.wait_until(lambda: self.node_states() == ["idle", "idle"], "both nodes are idle", 60)

    def _on(self, host: str, *command: str) -> None:
        """Run a program, which goes to the background by itself, on a host."""
        binds = "".join(f"mount --bind {self.folder}/{name} /etc/{name};" for name in ("hosts", "resolv.conf"))
        if host in NODES:
            binds += f"mount -t tmpfs -o size=80m tmpfs {self.private};"
        script = f'hostname {host}; {binds} exec "$@"'
        unshared = ["unshare", "--mount", "--uts", "sh", "-ec", script, "sh", *command]
        space = f"--net=/run/netns/{self._namespace(host)}"
        with (self.folder / f"{command[0]}_{host}.start").open("w") as log:
            environ = {**os.environ, "SLURM_CONF": str(self._conf)}
            subprocess.run(
                ["nsenter", space, *unshared], env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True
            )

    def start_node(self, node: str) -> None:
        """Start a node's slurmd, at first or after `kill`."""
        self._on(node, "slurmd", "-N", node)

    def kill(self, node: str) -> None:
        """All processes of a node are gone at once, as by a power cut."""
        self._kill(node)

    def _kill(self, host: str) -> None:
        while pids := self.processes(host):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            time.sleep(0.02)

    def processes(self, host: str, words: str = "") -> list[int]:
        """Process ids of a host, of those whose command line has `words`."""
        found = subprocess.run(["ip", "netns", "pids", self._namespace(host)], capture_output=True, text=True).stdout
        return [pid for pid in map(int, found.split()) if words in _command_line(pid)]

    def cut(self, node: str) -> None:
        """A node's packets are lost from now on."""
        _run("ip", "-n", self._namespace(node), "link", "set", "eth0", "down")

    def mend(self, node: str) -> None:
        """The node is reached again."""
        _run("ip", "-n", self._namespace(node), "link", "set", "eth0", "up")

    def ask(self, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        """The standard output of a client: squeue, scontrol, sbatch. Raises CalledProcessError."""
        done = self.try_out(*command, cwd=cwd, env=env)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def try_out(
        self, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """How a client ends, on the host of the controller."""
        environ = {**os.environ, "PYTHON": sys.executable, "SLURM_CONF": str(self._conf), **(env or {})}
        space = f"--net=/run/netns/{self._namespace('control')}"
        return subprocess.run(["nsenter", space, *command], cwd=cwd, env=environ, capture_output=True, text=True)

    def submit(self, folder: Path, words: Sequence[str], env: dict[str, str] | None = None) -> Job:
        """sbatch with these words, in a folder."""
        text = self.ask("sbatch", "--parsable", *words, cwd=folder, env=env)
        return Job(self, text.strip(), folder)

    def node_states(self) -> list[str]:
        """One word for each node."""
        return self.ask("sinfo", "--noheader", "-N", "-p", "debug", "-o", "%T").split()

    def wait_until(self, is_so: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
        """Poll a condition; fails with the jobs and the nodes as Slurm sees them."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > deadline:
                seen = self.ask("squeue", "-a") + self.ask("sinfo", "-N")
                raise AssertionError(f"not within {timeout_s:g} s: {what}\n{seen}")
            time.sleep(0.1)


class Job:
    """One submitted job."""

    def __init__(self, cluster: SlurmCluster, number: str, folder: Path) -> None:
        self.cluster, self.number, self.folder = cluster, number, folder

    @property
    def output(self) -> str:
        """What the job has written to its own output so far."""
        path = self.folder / f"disttrain-{self.number}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def fields(self) -> dict[str, str]:
        """What `scontrol show job` says."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.cluster.ask("scontrol", "show", "job", self.number)))

    def wait(self, timeout_s: float = 240.0) -> dict[str, str]:
        """Until the job is over, requeues included; what Slurm says of it then."""
        is_over = lambda: not self.cluster.ask("squeue", "-h", "-j", self.number).strip()  # noqa: E731
        try:
            self.cluster.wait_until(is_over, f"the end of job {self.number}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None
        return self.fields()

    def wait_for(self, is_so: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
        """Until something is so; fails where the job ends before."""

        def holds() -> bool:
            if is_so():
                return True
            assert self.cluster.ask("squeue", "-h", "-j", self.number).strip(), f"ended before {what}:\n{self.output}"
            return False

        self.cluster.wait_until(holds, what, timeout_s)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
