"""Horovod's own start: through MPI or horovodrun where they have started the ranks, else through a rendezvous of ours,
so that Horovod runs under every launcher."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.network_interface import find_interface
from disttrain.config.sections import CommConfig
from disttrain.errors import ConfigError, PeerLostError
from disttrain.files import expand_home, user_path
from disttrain.launch.env import RankEnv
from disttrain.launch.mpi.horovod_build import find_horovod_build

# The watchdog ends a wait with a report; gloo's own timeout, by default 30 s, is the backstop.
_BEYOND_WATCHDOG_S = 15.0

_TUNING = ("HOROVOD_AUTOTUNE", "HOROVOD_CYCLE_TIME", "HOROVOD_DISABLE_GROUP_FUSION", "HOROVOD_FUSION_THRESHOLD")
_tuning_here: dict[str, str] | None = None
"""Of these, what Horovod was told at its first start in this process."""


def start_horovod(config: CommConfig, env: RankEnv, control_plane: ControlPlane) -> Any:
    """The module `horovod.torch`, started. Raises ConfigError (not installed, not for this torch or MPI) on every rank
    together, PeerLostError where a rank does not come."""
    global _tuning_here
    settings, server = _settings(config), None
    told = os.environ | settings
    tuning = {name: told[name] for name in _TUNING if name in told}
    under_mpi = control_plane.run_on_all("horovod", lambda: _check(config, env, tuning))
    if env.world_size == 1 and not under_mpi:
        settings |= {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo"}
    by_ourselves = env.world_size > 1 and not under_mpi and env.launcher != "horovod"
    if by_ourselves:
        server, meeting = _rendezvous(env, control_plane)
        settings |= meeting
    hvd = importlib.import_module("horovod.torch")
    _tuning_here = tuning
    # For its start only, when Horovod reads them: in this process training may be started again.
    with _environ(settings):
        try:
            hvd.init()
        except (RuntimeError, ValueError) as error:
            raise PeerLostError(f"Horovod could not connect the ranks: {error}") from None
    if (hvd.rank(), hvd.size()) != (env.rank, env.world_size):
        raise ConfigError(
            f"Horovod takes this process for rank {hvd.rank()} of {hvd.size()}, {env.launcher} has started it as rank "
            f"{env.rank} of {env.world_size}: it was built with another MPI than that of mpirun, or its HOROVOD_* "
            "variables are of another job. Run launchers/install_horovod.sh with this mpirun on the PATH."
        )
    if by_ourselves:
        control_plane.barrier("horovod/started")
    if server is not None:
        server.stop()
    return hvd


def _check(config: CommConfig, env: RankEnv, tuning: dict[str, str]) -> bool:
    """Whether the ranks talk through MPI. Raises ConfigError for what cannot work on this build, or started so."""
    _check_started_before(tuning)
    build = find_horovod_build()
    try:
        importlib.import_module("horovod.torch")
    except ImportError as error:
        raise ConfigError(
            f"train.backend=horovod, but its library cannot be loaded ({error}). Build it again: "
            "launchers/install_horovod.sh"
        ) from None
    under_mpi = env.launcher in ("openmpi", "mpich") and build.mpi is not None
    if config.adasum and env.world_size & (env.world_size - 1):
        raise ConfigError(
            f"comm.adasum=true on world_size={env.world_size} ranks: Adasum combines them pair by pair. Use 2, 4, 8, "
            "... ranks, or comm.adasum=false."
        )
    if config.adasum and env.world_size > 1 and not under_mpi:
        raise ConfigError(
            f"comm.adasum=true, and {env.launcher} has started the ranks: Horovod has Adasum over MPI only. Start with "
            "launchers/mpirun.sh or launchers/horovodrun.sh --mpi, or use comm.adasum=false."
        )
    if config.timeline is not None and env.is_rank_zero and not user_path(config.timeline).absolute().parent.is_dir():
        raise ConfigError(
            f"comm.timeline={config.timeline}: its folder does not exist. Make it, or name a file in another one."
        )
    return under_mpi


def _check_started_before(tuning: dict[str, str]) -> None:
    """Raise ConfigError where an earlier start in this process stands against one with this tuning.

    Horovod 0.28.1 keeps its tuning when it is shut down: it does not take all of it back, a search goes on with the
    next start, and where no value is left to search for (on the other ranks after the first step of a search, too)
    the next start writes behind the end of a vector. See `ParameterManager` in its parameter_manager.cc.
    """
    way_out = "Train anew in another process"
    if _tuning_here is None:
        return
    if _tuning_here.get("HOROVOD_AUTOTUNE", "0") != "0":
        raise ConfigError(
            "comm.autotune=true when Horovod was started here before: by a defect, Horovod 0.28.1 then crashes or "
            f"waits for ever in a next start in the same process. {way_out}."
        )
    if _tuning_here.keys() >= {"HOROVOD_FUSION_THRESHOLD", "HOROVOD_CYCLE_TIME"}:
        raise ConfigError(
            "comm.fusion_mib and comm.cycle_time_ms have both been set when Horovod was started here before: by a "
            f"defect, Horovod 0.28.1 then crashes in its next start in the same process. {way_out}, or set one of them "
            "only."
        )
    if tuning != _tuning_here:
        then, now = (", ".join(f"{key}={value}" for key, value in one.items()) for one in (_tuning_here, tuning))
        raise ConfigError(
            f"Horovod was started here before with {then or 'no tuning'}, and is now to start with "
            f"{now or 'no tuning'}: the first holds as long as the process lives. {way_out}, or leave comm.fusion_mib, "
            "comm.cycle_time_ms and comm.autotune as they were."
        )


def _settings(config: CommConfig) -> dict[str, str]:
    """Horovod's variables for the config's fields; what the user has exported holds where the config is silent."""
    settings: dict[str, str] = {
        "HOROVOD_STALL_CHECK_DISABLE": "1",  # the watchdog's report says more
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(math.ceil(config.timeout_s + _BEYOND_WATCHDOG_S)),
    }
    if config.fusion_mib is not None:
        settings["HOROVOD_FUSION_THRESHOLD"] = str(round(config.fusion_mib * 2**20))
    if config.cycle_time_ms is not None:
        settings["HOROVOD_CYCLE_TIME"] = str(config.cycle_time_ms)
    if config.timeline is not None:
        settings["HOROVOD_TIMELINE"] = expand_home(config.timeline)
    if config.autotune:
        settings["HOROVOD_AUTOTUNE"] = "1"
    elif config.fusion_mib is None:  # which buckets are joined depends on the moment, and on that the order of sums
        settings["HOROVOD_DISABLE_GROUP_FUSION"] = "1"
    return settings


@contextlib.contextmanager
def _environ(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _rendezvous(env: RankEnv, control_plane: ControlPlane) -> tuple[Any, dict[str, str]]:
    """Let rank zero host the address book through which Horovod's gloo ranks find each other: its server (None on the
    others), and the variables that lead there.

    Every rank is presented as a host of its own: that decides nothing but which ranks reduce among themselves first.
    """
    server: Any = None
    port = ""
    if env.is_rank_zero:
        from horovod.runner.common.util.hosts import SlotInfo
        from horovod.runner.http.http_server import RendezvousServer

        server = RendezvousServer()
        port = str(server.start())
        size = env.world_size
        server.init([SlotInfo(f"rank-{rank}", rank, 0, rank, size, 1, size) for rank in range(size)])
    port = control_plane.broadcast("horovod/rendezvous", port)
    address = socket.gethostbyname(env.master_addr)
    return server, {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": port,
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": os.environ.get("HOROVOD_GLOO_IFACE") or _interface_to(control_plane, address),
        "HOROVOD_HOSTNAME": f"rank-{env.rank}",
        "HOROVOD_RANK": str(env.rank),
        "HOROVOD_SIZE": str(env.world_size),
        "HOROVOD_LOCAL_RANK": "0",
        "HOROVOD_LOCAL_SIZE": "1",
        "HOROVOD_CROSS_RANK": str(env.rank),
        "HOROVOD_CROSS_SIZE": str(env.world_size),
    }


def _interface_to(control_plane: ControlPlane, address: str) -> str:
    """The network interface through which this rank reaches the others: `lo`, `eth0`, ..."""
    name = find_interface(control_plane)
    if name is None:
        raise ConfigError(
            f"no network interface of this host leads to {address}, where the ranks meet. Export "
            "HOROVOD_GLOO_IFACE=<interface>, or another MASTER_ADDR."
        )
    return name
