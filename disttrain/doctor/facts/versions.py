"""Which versions are installed. Read from the packages' metadata: what is broken could not be imported."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import disttrain
from disttrain.doctor.facts.model import Versions
from disttrain.errors import ConfigError
from disttrain.launch.mpi.horovod_build import find_horovod_build
from disttrain.launch.mpi.implementation import find_mpi

_PACKAGES = ("torch", "torchvision", "numpy", "ray", "horovod")
_PIN = re.compile(r"(nvidia-[a-z0-9-]+|triton)==([0-9][^;\s]*)")


def find_versions(with_mpi: bool) -> Versions:
    """Args: with_mpi: ask mpirun too, and look with what Horovod is built."""
    found = {"python": platform.python_version(), "disttrain": disttrain.__version__}
    found |= {name: version for name in _PACKAGES if (version := _installed(name))}
    torch = _torch_file()
    found |= {"torch": torch.get("__version__") or found.get("torch", "")} if torch else {}
    if cuda := torch.get("cuda"):
        found["cuda"] = cuda
    pins = dict(_pins())
    nccl = next((have for name, (_, have) in pins.items() if name.startswith("nvidia-nccl") and have), None)
    if nccl is not None:
        found["nccl"] = nccl
    mpi, horovod_mpi, horovod_error = _mpi_and_horovod("horovod" in found) if with_mpi else (None, None, None)
    return Versions(found=found, pins=pins, mpi=mpi, horovod_mpi=horovod_mpi, horovod_error=horovod_error)


def import_torch() -> str | None:
    """Why torch cannot be imported; None: it can."""
    try:
        importlib.import_module("torch")
    except Exception as error:  # of any kind: a library that is missing, damaged, or of another version
        return (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"
        )
    return None


def _installed(name: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def _torch_file() -> dict[str, str]:
    """What torch says of itself: version and CUDA."""
    with contextlib.suppress(Exception):
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.origin is not None:
            read = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
            return {name: str(value) for name, value in read.items() if name in ("__version__", "cuda") and value}
    return {}


def _pins() -> Iterator[tuple[str, tuple[str, str | None]]]:
    """The libraries of the system's kind that torch wants in one version each."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.requires("torch") or ():
            if (match := _PIN.match(line)) and "extra ==" not in line and platform.system() == "Linux":
                yield match[1], (match[2], _installed(match[1]))


def _mpi_and_horovod(is_installed: bool) -> tuple[str | None, str | None, str | None]:
    mpi = horovod_mpi = error = None
    with contextlib.suppress(ConfigError):
        found = find_mpi(want_mpich=False)
        mpi = f"{found.name} {found.major}"
    if is_installed:
        try:
            horovod_mpi = find_horovod_build().mpi or "gloo"
        except (ConfigError, OSError, ValueError) as wrong:
            error = str(wrong)
    return mpi, horovod_mpi, error
