"""Versions that do not go together, on one node or between nodes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from disttrain.doctor.facts.model import Facts
from disttrain.doctor.finding import Check, Found, Status

_PYTHON, _TORCH = ((3, 10), (3, 12)), (2, 9)
_TORCHVISION_AHEAD = 15  # torch 2.9 and torchvision 0.24 belong together, and so on
_INSTALL = "launchers/install_horovod.sh"


def numbers(version: str) -> tuple[int, ...]:
    """`2.9.1+cu128` -> (2, 9, 1)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _python(facts: Facts) -> Iterator[Found]:
    version = facts.versions.found.get("python", "")
    low, high = _PYTHON
    status: Status = "ok" if low <= numbers(version)[:2] <= high else "fail"
    yield Found(status, f"Python {version}")


def _torch(facts: Facts) -> Iterator[Found]:
    version = facts.versions.found.get("torch")
    if version is None:
        yield Found("fail", "torch is not installed")
    elif numbers(version) < _TORCH:
        yield Found("fail", f"torch {version}")
    elif facts.versions.torch_error is not None:
        yield Found("fail", f"torch {version} cannot be imported: {facts.versions.torch_error}")
    else:
        yield Found("ok", f"torch {version}")


def _torchvision(facts: Facts) -> Iterator[Found]:
    torch, vision = (facts.versions.found.get(name) for name in ("torch", "torchvision"))
    if torch is None:
        return
    if vision is None:
        yield Found("fail", "torchvision is not installed")
        return
    fits = numbers(torch)[0] != 2 or numbers(vision)[:2] == (0, numbers(torch)[1] + _TORCHVISION_AHEAD)
    yield Found("ok" if fits else "fail", f"torchvision {vision} beside torch {torch}")


def _pins(facts: Facts) -> Iterator[Found]:
    pins = facts.versions.pins
    wrong = {name: pin for name, pin in pins.items() if pin[0] != pin[1]}
    # A build for the CPU alone, or one with the libraries inside, has none of them.
    if pins and all(have is None for _, have in pins.values()) and not facts.gpus.all:
        return
    for name, (wanted, have) in wrong.items():
        yield Found(
            "warn", f"{name} {have or 'is not installed'}, torch wants {wanted}", (), f"pip install {name}=={wanted}"
        )
    if pins and not wrong:
        yield Found(
            "ok",
            ", ".join(f"{name} {wanted}" for name, (wanted, _) in pins.items() if "nccl" in name or "cudnn" in name),
        )


def _driver(facts: Facts) -> Iterator[Found]:
    cuda, newest = facts.versions.found.get("cuda"), facts.versions.driver_cuda
    if facts.gpus.all and facts.wanted.device != "cpu" and not cuda:
        yield Found("fail", f"torch {facts.versions.found.get('torch')} is built without CUDA, and there are GPUs")
    elif cuda and newest:
        driver = facts.versions.found.get("driver")
        fits = numbers(newest)[:1] >= numbers(cuda)[:1]  # CUDA runs on any driver of its own major version
        yield Found("ok" if fits else "fail", f"driver {driver} (CUDA {newest}), torch is built for CUDA {cuda}")


def _horovod(facts: Facts) -> Iterator[Found]:
    wanted, version = facts.wanted.backend == "horovod", facts.versions.found.get("horovod")
    bad: Status = "fail" if wanted else "warn"
    if facts.versions.horovod_error:
        yield Found(bad, facts.versions.horovod_error)
    elif version is None:
        if wanted:
            yield Found("fail", "train.backend=horovod, and Horovod is not installed")
    else:
        yield Found("ok", f"Horovod {version}, with {facts.versions.horovod_mpi}")


def _mpi(facts: Facts) -> Iterator[Found]:
    mpi, built = facts.versions.mpi, facts.versions.horovod_mpi
    if mpi is None:
        return
    if facts.wanted.backend == "horovod" and built is not None and not mpi.startswith(built):
        under_mpi = facts.launcher in ("openmpi", "mpich")
        remedy = (
            f"Put the mpirun of {built} first on the PATH, or build Horovod again: {_INSTALL}"
            if built != "gloo"
            else ""
        )
        yield Found("fail" if under_mpi else "warn", f"mpirun is of {mpi}, Horovod is built with {built}", (), remedy)
    else:
        yield Found("ok", f"mpirun of {mpi}")


_SAME: tuple[tuple[str, Status, int], ...] = (  # name, what a difference is, how many numbers have to agree
    ("torch", "fail", 9), ("cuda", "fail", 9), ("nccl", "fail", 9), ("disttrain", "fail", 9), ("horovod", "fail", 9),
    ("ray", "fail", 9), ("python", "fail", 2), ("torchvision", "warn", 9), ("numpy", "warn", 9), ("driver", "warn", 9),
)  # fmt: skip


def _same(everyone: Sequence[Facts]) -> Iterator[Found]:
    hosts = {one.host: one.versions.found for one in everyone}
    if len(hosts) < 2:
        return
    agreed = True
    for name, status, parts in _SAME:
        by_host = {host: ".".join(found.get(name, "none").split(".")[:parts]) for host, found in hosts.items()}
        if len(set(by_host.values())) == 1:
            continue
        agreed = False
        usual, count = Counter(by_host.values()).most_common(1)[0]
        # Where no version has the majority, that of the first node counts: it is where the job's output comes from.
        usual = usual if count * 2 > len(by_host) else by_host[everyone[0].host]
        for other in sorted({value for value in by_host.values() if value != usual}):
            nodes = tuple(host for host, value in by_host.items() if value == other)
            yield Found(status, f"{name} is {other} here, and {usual} on the other nodes", nodes)
    if agreed:
        yield Found("ok", f"the same versions on {len(hosts)} nodes")


CHECKS = [
    Check(
        "python",
        "Python is 3.10 to 3.12.",
        "Make an environment with such a Python, and install disttrain there.",
        node=_python,
    ),
    Check(
        "torch",
        "torch is installed, 2.9 or newer, and can be imported.",
        "pip install 'torch>=2.9', in the environment of disttrain; for a library that is missing: reinstall it "
        "with its dependencies.",
        node=_torch,
    ),
    Check(
        "torchvision",
        "torchvision is the one made for this torch: 0.24 for 2.9, 0.25 for 2.10, and so on.",
        "pip install --upgrade torch torchvision, both from one source.",
        node=_torchvision,
    ),
    Check(
        "torch-libraries",
        "NCCL, cuDNN and the like have the versions that torch was built with.",
        "pip install --force-reinstall torch, or the version named here.",
        node=_pins,
    ),
    Check(
        "cuda-driver",
        "GPUs need a torch with CUDA, and a driver for its CUDA or a newer major version.",
        "Update the driver, or install a torch that is built for an older CUDA (the selector on pytorch.org).",
        node=_driver,
    ),
    Check(
        "horovod",
        "Horovod is built for this torch. It is needed for train.backend=horovod.",
        f"Build it again: {_INSTALL}, or take train.backend=ddp.",
        node=_horovod,
    ),
    Check(
        "mpi",
        "mpirun belongs to the MPI that Horovod is built with, where it starts Horovod's ranks.",
        f"Build Horovod with this MPI: {_INSTALL}; or start with launchers/horovodrun.sh.",
        node=_mpi,
    ),
    Check(
        "same-versions",
        "All nodes have the same versions.",
        "Install the same environment on all nodes: one on a shared disk, or one container image.",
        job=_same,
    ),
]
