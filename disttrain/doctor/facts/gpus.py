"""The GPUs, as NVML knows them. Without a driver, or without nvidia-ml-py, nothing is known and nothing is claimed."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from disttrain.doctor.facts.model import Gpu, Gpus
from disttrain.system.nvml import nvml_session, slowed_by, text_of, tried

_MOST_LINKS = 18
_SYSTEM = 50  # NVML_TOPOLOGY_SYSTEM: over the link between processors
_UNCORRECTED, _VOLATILE = 1, 0  # nvml.h


def find_gpus(environ: Mapping[str, str]) -> tuple[Gpus, dict[str, str]]:
    """The GPUs, and the versions that the driver tells: `driver`, `driver_cuda`."""
    devices = sum(1 for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    with contextlib.ExitStack() as stack:
        try:
            nvml = stack.enter_context(nvml_session())
        except ImportError:
            hint = "nvidia-ml-py is not installed (pip install nvidia-ml-py)"
            return Gpus(devices=devices, error=hint if devices else None), {}
        except Exception as error:  # NVML's own: no driver
            return Gpus(devices=devices, error=str(error) if devices else None), {}
        try:
            return _ask(nvml, devices, environ)
        except Exception as error:
            return Gpus(devices=devices, error=f"{type(error).__name__}: {error}"), {}


def _ask(nvml: Any, devices: int, environ: Mapping[str, str]) -> tuple[Gpus, dict[str, str]]:
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    gpus = [_gpu(nvml, handle) for handle in handles]
    versions = {"driver": text_of(nvml.nvmlSystemGetDriverVersion())}
    if number := tried(nvml.nvmlSystemGetCudaDriverVersion):
        versions["driver_cuda"] = f"{number // 1000}.{number % 1000 // 10}"
    visible, unknown = choose_visible([one.uuid for one in gpus], environ.get("CUDA_VISIBLE_DEVICES"))
    far = [
        f"{a}-{b}"
        for a, b in itertools.combinations(range(len(handles)), 2)
        if (tried(lambda a=a, b=b: nvml.nvmlDeviceGetTopologyCommonAncestor(handles[a], handles[b])) or 0)  # type: ignore[misc]
        >= _SYSTEM
        and not (gpus[a].links and gpus[b].links)
    ]
    return Gpus(devices=devices, all=gpus, visible=visible, unknown=unknown, far=far), versions


def choose_visible(uuids: list[str], named: str | None) -> tuple[list[str] | None, list[str]]:
    """What CUDA_VISIBLE_DEVICES leaves of the GPUs, and the entries of it that name none.

    CUDA takes the entries up to the first that it does not know. The first result is None where MIG parts are named.
    """
    if named is None:
        return uuids, []
    chosen: list[str] = []
    for entry in (one.strip() for one in named.split(",")):
        if entry.startswith("MIG"):
            return None, []
        if entry in ("", "-1", "NoDevFiles", "none", "void"):
            return chosen, []
        if entry.isdecimal() and int(entry) < len(uuids):
            chosen.append(uuids[int(entry)])
        elif len(same := [one for one in uuids if one.startswith(entry)]) == 1:
            chosen += same
        else:
            return chosen, [entry]
    return chosen, []


def _gpu(nvml: Any, handle: Any) -> Gpu:
    memory = tried(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    processes = tried(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    rows = tried(lambda: nvml.nvmlDeviceGetRemappedRows(handle))  # corrected, uncorrected, pending, failed
    reasons = tried(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0
    links = [tried(lambda n=n: nvml.nvmlDeviceGetNvLinkState(handle, n)) for n in range(_MOST_LINKS)]  # type: ignore[misc]
    return Gpu(
        uuid=text_of(nvml.nvmlDeviceGetUUID(handle)),
        name=text_of(nvml.nvmlDeviceGetName(handle)),
        memory=memory and int(memory.total),
        memory_used=memory and int(memory.used),
        processes=None if processes is None else len(processes),
        uncorrected_errors=tried(lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, _UNCORRECTED, _VOLATILE)),
        remap="failed" if rows and rows[3] else "pending" if rows and rows[2] else None,
        slowed=slowed_by(reasons),
        links=None if all(one is None for one in links) else sum(1 for one in links if one),
    )
