"""What the machine under a rank does: process, node and GPU, sampled in a thread. What cannot be had is absent."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import psutil

from disttrain.log import log
from disttrain.system.nvml import nvml_session, slowed_by, tried

Sample = dict[str, Any]
"""Name with unit -> number, or list of texts."""

_MIB = 1 << 20
_NVLINK_SENT, _NVLINK_RECEIVED, _ALL_LINKS = 138, 139, 0xFFFFFFFF  # nvml.h: NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, RX
_PCIE_SENT, _PCIE_RECEIVED = 0, 1
_UNCORRECTED, _VOLATILE = 1, 0
_SM_CLOCK, _DIE_TEMPERATURE = 1, 0
_XID, _CRITICAL = "gpu_xid", 0x8


class Probe(Protocol):
    """Something that can be looked at."""

    def sample(self) -> Sample: ...

    def close(self) -> None: ...


class Rates:
    """Counters that only grow -> what they grew by in a second."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, float]] = {}

    def of(self, counters: dict[str, float]) -> dict[str, float]:
        """Of those counters that had a value the last time too."""
        now = time.monotonic()
        found = {}
        for name, value in counters.items():
            moment, earlier = self._before.get(name, (now, value))
            if now > moment and value >= earlier:
                found[name] = (value - earlier) / (now - moment)
            self._before[name] = now, value
        return found


class HostProbe:
    """This process and, for one rank of each node, the node."""

    def __init__(self, with_node: bool) -> None:
        self._process, self._with_node, self._rates = psutil.Process(), with_node, Rates()

    def sample(self) -> Sample:
        """`cpu_percent` (100: one core), `rss_mib`, and rates of reading and writing in MiB/s; for the node
        `node_cpu_percent` (100: all cores), `node_memory_percent`, and rates of its network."""
        values: Sample = {}
        counters: dict[str, float] = {}
        with contextlib.suppress(psutil.Error, OSError):
            with self._process.oneshot():
                values["cpu_percent"] = self._process.cpu_percent()
                values["rss_mib"] = self._process.memory_info().rss / _MIB
            moved = self._process.io_counters()
            counters |= {"read_mib_s": moved.read_bytes / _MIB, "write_mib_s": moved.write_bytes / _MIB}
        if self._with_node:
            with contextlib.suppress(psutil.Error, OSError):
                values["node_cpu_percent"] = psutil.cpu_percent()
                values["node_memory_percent"] = psutil.virtual_memory().percent
                cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name != "lo"]
                counters["node_sent_mib_s"] = sum(card.bytes_sent for card in cards) / _MIB
                counters["node_received_mib_s"] = sum(card.bytes_recv for card in cards) / _MIB
        return values | self._rates.of(counters)

    def close(self) -> None:
        """Nothing is held."""


class GpuProbe:
    """One GPU, found by the UUID that CUDA gives: its number may be another one under CUDA_VISIBLE_DEVICES."""

    def __init__(self, uuid: str) -> None:
        """`uuid` with or without `GPU-` or `MIG-`. Where there is no NVML, or no such GPU, samples are empty."""
        self._stack, self._rates = contextlib.ExitStack(), Rates()
        self._handle: Any = None
        self._events: Any = None
        try:
            self._nvml = self._stack.enter_context(nvml_session())
        except Exception as error:  # no nvidia-ml-py, no driver, or one that does not match
            log.debug("no telemetry of the GPU: %s", error)
            return
        bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
        names = (f"GPU-{bare}", f"MIG-{bare}")
        handles = (tried(lambda name=name: self._nvml.nvmlDeviceGetHandleByUUID(name)) for name in names)  # type: ignore[misc]
        self._handle = next((one for one in handles if one is not None), None)
        if self._handle is None:
            log.debug("no telemetry of the GPU: NVML knows none with the UUID %s", uuid)
            return
        self._events = tried(self._listen)

    def _listen(self) -> Any:
        events = self._nvml.nvmlEventSetCreate()
        self._nvml.nvmlDeviceRegisterEvents(self._handle, _CRITICAL, events)
        return events

    def sample(self) -> Sample:
        """Every name begins with `gpu_` and ends with the unit."""
        if self._handle is None:
            return {}
        nvml, gpu = self._nvml, self._handle
        memory = tried(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu))
        use = tried(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu))
        power = tried(lambda: nvml.nvmlDeviceGetPowerUsage(gpu))
        found = {
            "gpu_utilisation_percent": use and use.gpu,
            "gpu_memory_mib": memory and memory.used / _MIB,
            "gpu_power_w": None if power is None else power / 1000,
            "gpu_temperature_c": tried(lambda: nvml.nvmlDeviceGetTemperature(gpu, _DIE_TEMPERATURE)),
            "gpu_clock_mhz": tried(lambda: nvml.nvmlDeviceGetClockInfo(gpu, _SM_CLOCK)),
            "gpu_pcie_sent_mib_s": self._pcie(_PCIE_SENT),
            "gpu_pcie_received_mib_s": self._pcie(_PCIE_RECEIVED),
            "gpu_ecc_uncorrected": tried(lambda: nvml.nvmlDeviceGetTotalEccErrors(gpu, _UNCORRECTED, _VOLATILE)),
            "gpu_slowed_by": slowed_by(tried(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)) or 0) or None,
            _XID: self._xid_events() or None,
        }
        return {name: value for name, value in found.items() if value is not None} | self._nvlink()

    def _pcie(self, direction: int) -> float | None:
        kib = tried(lambda: self._nvml.nvmlDeviceGetPcieThroughput(self._handle, direction))
        return None if kib is None else kib / 1024

    def _nvlink(self) -> dict[str, float]:
        """Over all links, in MiB/s."""
        fields = [(_NVLINK_SENT, _ALL_LINKS), (_NVLINK_RECEIVED, _ALL_LINKS)]
        values = tried(lambda: self._nvml.nvmlDeviceGetFieldValues(self._handle, fields)) or []
        names = ("gpu_nvlink_sent_mib_s", "gpu_nvlink_received_mib_s")
        return self._rates.of(
            {
                name: float(value.value.ullVal) / 1024
                for name, value in zip(names, values, strict=False)
                if value.nvmlReturn == 0
            }
        )

    def _xid_events(self) -> list[int]:
        """Numbers of the critical errors since the last time."""
        found: list[int] = []
        while self._events is not None and len(found) < 16:
            event = tried(lambda: self._nvml.nvmlEventSetWait(self._events, 0))
            if event is None:  # none is waiting, or there are none on this GPU
                break
            found.append(int(event.eventData))
        return found

    def energy_j(self) -> float | None:
        """Used since the driver was loaded, in joules."""
        if self._handle is None:
            return None
        millijoules = tried(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None if millijoules is None else millijoules / 1000

    def close(self) -> None:
        """Leave NVML."""
        if self._events is not None:
            tried(lambda: self._nvml.nvmlEventSetFree(self._events))
        self._handle = self._events = None
        self._stack.close()


class Sampler:
    """Looks at the probes every `every_s` seconds, in a thread of its own, and hands on what they say."""

    def __init__(self, probes: list[Probe], every_s: float, take: Callable[[Sample], None]) -> None:
        """`take` is called in the thread. An exception there, or in a probe, ends the sampling, not the training."""
        self._probes, self._every_s, self._take = probes, every_s, take
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for probe in self._probes:
                probe.sample()  # percentages and rates are since the last time, some of them in the same thread
            while not self._stop.wait(self._every_s):
                self._take({name: value for probe in self._probes for name, value in probe.sample().items()})
        except Exception as error:
            log.debug("telemetry ends: %s: %s", type(error).__name__, error)

    def close(self) -> None:
        """End the thread; at most a second is waited for it."""
        self._stop.set()
        self._thread.join(1.0)
