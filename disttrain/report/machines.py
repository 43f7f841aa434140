"""Telemetry over the steps: GPUs, processes and nodes, as far as a run could see them."""

from __future__ import annotations

from collections import defaultdict

from disttrain.report.curves import Curves, Drawn
from disttrain.report.page import charts, color_of, legend, note, section
from disttrain.report.read import Run, Series
from disttrain.report.series import thinned
from disttrain.report.svg import Line, Range, chart

_LABELS = {
    "gpu_utilisation_percent": "GPU in use, %",
    "gpu_memory_mib": "GPU memory in use, MiB",
    "gpu_power_w": "GPU power, W",
    "gpu_temperature_c": "GPU temperature, °C",
    "gpu_clock_mhz": "GPU clock, MHz",
    "gpu_pcie_sent_mib_s": "PCIe sent, MiB/s",
    "gpu_pcie_received_mib_s": "PCIe received, MiB/s",
    "gpu_nvlink_sent_mib_s": "NVLink sent, MiB/s",
    "gpu_nvlink_received_mib_s": "NVLink received, MiB/s",
    "gpu_ecc_uncorrected": "uncorrected memory errors",
    "cpu_percent": "processor of the rank, % of a core",
    "rss_mib": "memory of the rank, MiB",
    "read_mib_s": "read from disk by the rank, MiB/s",
    "write_mib_s": "written to disk by the rank, MiB/s",
    "node_cpu_percent": "processor of the node, %",
    "node_memory_percent": "memory of the node, %",
    "node_sent_mib_s": "network of the node, sent, MiB/s",
    "node_received_mib_s": "network of the node, received, MiB/s",
}
_MOST_RANKS = 8


def machine_charts(curves: Curves) -> list[Drawn]:
    """One chart for each value that any run has: of one run a line for each rank, of several the mean of each."""
    drawn = []
    for key, label in _LABELS.items():
        lines: list[Line] = []
        for number, run in enumerate(curves.runs):
            ranks = _by_rank(run, key)
            if len(curves.runs) > 1:
                mean = _mean(ranks)
                lines += [Line(thinned(mean), color_of(number), 1.5, f"{run.name}: {label}")] if mean else []
                continue
            lines += [
                Line(thinned(series), color_of(rank), 1.3, f"rank {rank}: {label}")
                for rank, series in sorted(ranks.items())[:_MOST_RANKS]
            ]
        if any(len(line.points) > 1 for line in lines):
            high = Range.from_zero([value for line in lines for _, value in line.points])
            drawn.append(Drawn(key, chart(lines, "step", label, high, curves.x_range, curves.all_marks())))
    return drawn


def _by_rank(run: Run, key: str) -> dict[int, Series]:
    found: dict[int, Series] = defaultdict(list)
    for line in run.lines:
        value = line.get(key)
        if line.get("split") == "telemetry" and isinstance(value, int | float):
            found[int(line.get("rank") or 0)].append((float(line["step"]), float(value)))
    return found


def _mean(ranks: dict[int, Series]) -> Series:
    """Of all samples at the same step."""
    values: dict[float, list[float]] = defaultdict(list)
    for series in ranks.values():
        for step, value in series:
            values[step].append(value)
    return [(step, sum(found) / len(found)) for step, found in sorted(values.items())]


def machine_section(curves: Curves) -> str:
    """The charts, folded in nothing: where a machine is the reason, it shows."""
    drawn = machine_charts(curves)
    if not drawn:
        return ""
    if len(curves.runs) > 1:
        names = [(run.name, color_of(number)) for number, run in enumerate(curves.runs)]
        told = note("The mean over the ranks that have told.")
    else:
        ranks = sorted({int(line.get("rank") or 0) for line in curves.runs[0].lines if line["split"] == "telemetry"})
        names = [(f"rank {rank}", color_of(rank)) for rank in ranks[:_MOST_RANKS]]
        told = note(f"The first {_MOST_RANKS} of {len(ranks)} ranks.") if len(ranks) > _MOST_RANKS else ""
    return section("Machines", told, legend(names), charts(one.svg for one in drawn))
