"""Ray as this package wants it: what it reads from the environment, its version, a cluster to run on."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import disttrain
from disttrain.errors import ConfigError, PeerLostError, say
from disttrain.system.waits import announced
from disttrain.tune.reaper import own_group, reaping

_OLDEST = (2, 44)
_INSTALL = "pip install 'disttrain[tune]'"
_OBJECT_STORE_BYTES = 80 << 20  # hardly anything passes through it; Ray takes no less than 75 MiB
_STARTS = 10
_TOGETHER_S = 300.0  # for the nodes of a cluster to come up
_POLL_S = 0.5
_SESSION_PREFIX = "disttrain-ray-"
_LONGEST_ROOT = 30  # characters: the paths of Ray's sockets below it may have 107 in all
_ROOM_BYTES = 64 << 20  # for sockets and logs
_SHARED_MEMORY = Path("/dev/shm")

# Read when Ray is imported or its processes start.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # trials would run at +15
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a config may name the user's own modules, in the working directory
    "RAY_DEDUP_LOGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_worker_register_timeout_seconds": "300",  # a busy machine needs its time: Ray would kill what starts slowly
    "RAY_agent_register_timeout_ms": "300000",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # the journal is what a search goes on from
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def check_installed(scheduler: str = "") -> None:
    """Raise ConfigError, with the way out, where there is no Ray, too old a one, or not what the scheduler needs.

    Imports nothing.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(f"disttrain tune needs Ray, which is not installed: {_INSTALL}")
    from importlib.metadata import PackageNotFoundError, version

    with contextlib.suppress(PackageNotFoundError):
        found = version("ray")
        if tuple(int(one) for one in re.findall(r"\d+", found)[:2]) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise ConfigError(
                f"Ray {found} is installed, and disttrain tune needs {oldest} or newer: {_INSTALL} --upgrade"
            )
    missing = [name for name in ("pandas", "pyarrow") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"Ray is installed without Tune ({', '.join(missing)} missing): {_INSTALL}")
    if scheduler == "pb2" and importlib.util.find_spec("sklearn") is None:
        raise ConfigError(f"scheduler pb2 needs scikit-learn, which is not installed: {_INSTALL}")


def prepare_environ(environ: MutableMapping[str, str]) -> None:
    """Set what Ray reads. To be called before its import."""
    environ.update(_SETTINGS)
    # Ray's workers find this package where this process does.
    package, given = str(Path(disttrain.__file__).parents[1]), environ.get("PYTHONPATH", "")
    if package not in given.split(os.pathsep):
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (package, given)))


@contextlib.contextmanager
def ray_cluster(address: str | None, nodes: int = 1) -> Iterator[None]:
    """Within it this process is the driver of a cluster: one of this machine alone, or the one at `address`, once it
    has so many nodes.

    Raises ConfigError or PeerLostError, in one message, where there can be none.
    """
    prepare_environ(os.environ)
    with contextlib.ExitStack() as stack:
        session = None if address else stack.enter_context(_session_folder())
        if session is not None:
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(_make_token(session))
        import ray

        stack.callback(ray.shutdown)
        with announced("waiting for Ray to start" if session else f"waiting for the Ray cluster at {address}"):
            _init(ray, address, session, _TOGETHER_S if nodes > 1 else 0.0)
        if address:
            _wait_for_nodes(ray, nodes)
        yield


def _wait_for_nodes(ray: Any, nodes: int) -> None:
    deadline = time.monotonic() + _TOGETHER_S
    with announced(f"waiting for the {nodes} nodes of the Ray cluster"):
        while (there := sum(one["Alive"] for one in ray.nodes())) < nodes:
            if time.monotonic() > deadline:
                raise PeerLostError(
                    f"the Ray cluster has {there} of {nodes} nodes (--ray-nodes) after {_TOGETHER_S:g} s. Look at what "
                    "the others say, or use fewer."
                )
            time.sleep(_POLL_S)


def _init(ray: Any, address: str | None, session: Path | None, patience_s: float = 0.0) -> None:
    """`patience_s`: how long a cluster at an address may take to come up."""
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if session is None:
            _join(ray, address, quiet, patience_s)
        else:
            with own_group():
                _init_here(ray, session, quiet)
    except ConnectionError as error:
        raise PeerLostError(
            f"no Ray cluster answers at {address}: {_first_line(error)} Start one (ray start --head), or leave "
            "--ray-address out to search on this machine alone."
        ) from None
    except Exception as error:
        where = f"at {address}" if address else f"on this machine (its files are in {session})"
        raise PeerLostError(f"Ray did not start {where}: {type(error).__name__}: {_first_line(error)}") from error


def _join(ray: Any, address: str | None, quiet: dict[str, Any], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            ray.init(address, **quiet)
            return
        except Exception:
            ray.shutdown()
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


def _init_here(ray: Any, session: Path, quiet: dict[str, Any]) -> None:
    """A cluster of this machine. Ray gives itself 30 s for the start, which a busy machine may need more than once."""
    store = _object_store(session)
    for attempt in range(_STARTS):
        try:
            # "local": anything else joins whatever cluster a variable or a file of another program names.
            ray.init(
                "local",
                num_cpus=len(os.sched_getaffinity(0)),
                include_dashboard=False,
                _temp_dir=str(session),
                **store,
                **quiet,
            )
            return
        except Exception as error:
            ray.shutdown()
            if attempt + 1 == _STARTS or "timed out" not in str(error):
                raise
            say("Ray has not started within its own limit; once more")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")


@contextlib.contextmanager
def _session_folder() -> Iterator[Path]:
    """A short folder for Ray's sockets and logs, which goes with the search."""
    root = session_root()
    try:
        folder = Path(tempfile.mkdtemp(prefix=_SESSION_PREFIX, dir=root))
    except OSError as error:
        raise ConfigError(
            f"{root}, where Ray keeps its sockets and logs, cannot be written: {error.strerror}."
        ) from None
    with reaping(folder):
        yield folder


def session_root() -> Path:
    """Where Ray's files on this machine go: /tmp, or the folder that TMPDIR names. Raises ConfigError where neither has
    room."""
    places = [one for one in dict.fromkeys((Path("/tmp"), Path(tempfile.gettempdir()))) if one.is_dir()]
    short = [one for one in places if len(str(one)) <= _LONGEST_ROOT] or places[:1]
    for one in short:
        if os.access(one, os.W_OK) and shutil.disk_usage(one).free >= _ROOM_BYTES:
            return one
    said = ", ".join(f"{one} has {shutil.disk_usage(one).free >> 20} MiB free" for one in short)
    raise ConfigError(
        f"{said}, and Ray's sockets and logs need {_ROOM_BYTES >> 20} MiB in a folder that may be written. Make room, "
        f"or name another folder by TMPDIR (with at most {_LONGEST_ROOT} characters, as sockets ask for)."
    )


def _object_store(session: Path) -> dict[str, Any]:
    """Where Ray keeps objects: in shared memory, as far as there is enough."""
    options: dict[str, Any] = {"object_store_memory": _OBJECT_STORE_BYTES}
    if not _SHARED_MEMORY.is_dir() or (free := shutil.disk_usage(_SHARED_MEMORY).free) > _OBJECT_STORE_BYTES:
        return options
    say(
        f"warning: {_SHARED_MEMORY} has {free >> 20} MiB free: Ray's objects go to {session.parent}. Loader processes "
        "and NCCL need shared memory too; in a container give it more (--shm-size, or a memory emptyDir)."
    )
    return {**options, "_plasma_directory": str(session)}


def _make_token(session: Path) -> Path:
    """A token for a cluster of our own. Ray would put one into the home folder, where `ray start` then asks for it."""
    path = session / "token"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return path
