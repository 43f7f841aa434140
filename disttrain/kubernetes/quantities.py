"""Amounts as Kubernetes writes them, and whether a node has as much as a pod asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from disttrain.kubernetes.manifests import Finding, Manifests, Pod, at
from disttrain.kubernetes.trainings import GPU

_FACTOR = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_FACTOR |= {f"{name}i": 1024.0**power for power, name in enumerate("KMGTP", start=1)}
_FORM = re.compile(r"([0-9.]+(?:[eE][0-9]+)?)(m|[kMGTP]|[KMGTP]i)?")


def quantity(value: Any) -> float | None:
    """`500m` is 0.5, `4Gi` is 4 * 2**30; None for nothing, and for what is no amount."""
    match = _FORM.fullmatch(str(value))
    return float(match[1]) * _FACTOR[match[2] or ""] if match else None


def too_large(found: Manifests, nodes: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Requests that no node of the cluster could ever grant. `nodes`: as `kubectl get nodes -o json` has them."""
    return [one for pod in found.pods() for one in _pod(pod, nodes)]


def _pod(pod: Pod, nodes: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    wanted: dict[str, float] = {}
    for container in pod.containers:
        resources = container.get("resources") or {}
        for name, amount in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items():
            wanted[name] = wanted.get(name, 0.0) + (quantity(amount) or 0.0)
    for name, amount in wanted.items():
        if name != GPU and name not in at(pod.containers[0], "resources", "requests"):
            continue  # a limit above the node's size does no harm
        most = max((quantity(at(one, "status", "allocatable", name)) or 0.0 for one in nodes), default=0.0)
        if amount > most:
            what = "the cluster has no GPUs" if name == GPU and not most else f"the largest node has {most:g}"
            yield Finding(pod.where, f"asks for {name} {amount:g}, and {what}: it would wait for ever. Ask for less.")
