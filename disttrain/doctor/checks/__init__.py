"""The rules, by subject. A check is a function of facts alone: it asks nothing of the machine."""

from __future__ import annotations

from disttrain.doctor.checks import disks, environment, gpus, network, system, versions
from disttrain.doctor.finding import Check

CHECKS: list[Check] = [
    *environment.CHECKS, *versions.CHECKS, *gpus.CHECKS, *system.CHECKS, *network.CHECKS, *disks.CHECKS,
]  # fmt: skip
