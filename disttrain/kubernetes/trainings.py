"""The trainings of an overlay: how many pods and ranks, what they run, on which volumes, by which config."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from disttrain.config import Config
from disttrain.config.load import build_config
from disttrain.config.text import parse_yaml
from disttrain.errors import ConfigError
from disttrain.kubernetes.manifests import (
    RUNTIMES,
    SUBMITTER,
    TRAINING_KINDS,
    Manifest,
    Manifests,
    Pod,
    at,
    name_of,
    pods_of,
)

GPU = "nvidia.com/gpu"
# As a manifest sets them where no operator does; `launch.env` reads them in the pod.
NODES, PROCESSES, ADDRESS = "PET_NNODES", "PET_NPROC_PER_NODE", "PET_MASTER_ADDR"
_OVERRIDE = re.compile(r"[a-z]+\.[\w.]+=.*", re.DOTALL)
_CONTAINERS = ("pytorch", "node", "mpi", "train")


@dataclass(frozen=True)
class Training:
    """One job that trains, or searches (a RayJob)."""

    manifest: Manifest
    pods: tuple[Pod, ...]
    """The templates of the pods in which ranks run."""
    nodes: int
    """Pods with ranks; of an elastic job the most."""
    processes: str
    """Ranks of a pod: a number, `auto`, `gpu` or `cpu`."""
    words: tuple[str, ...]
    """What `disttrain train`, or `disttrain tune`, is given."""
    starter: Pod
    """The pods whose command that is."""

    @property
    def where(self) -> str:
        """`Job/train`"""
        return name_of(self.manifest)

    @property
    def ranks(self) -> int | None:
        """Of all pods; None where it is found out there."""
        return self.nodes * int(self.processes) if self.processes.isdecimal() else None

    @property
    def folder_option(self) -> str:
        """The option that names the folder with what the job leaves, and goes on from."""
        return "--output" if self.manifest["kind"] == "RayJob" else "--run-dir"

    @property
    def run_dir(self) -> str | None:
        """As the command says."""
        return option(self.words, self.folder_option)

    @property
    def config_path(self) -> str | None:
        """In the pod."""
        return next((one for one in self.words if one.endswith((".yaml", ".yml"))), None)

    def config(self, found: Manifests) -> Config | None:
        """None where it lies in an image or a volume. Raises ConfigError for one that is missing or wrong."""
        path = self.config_path
        name = at(volume_of(self.starter, path), "configMap", "name") if path else None
        held = found.named("ConfigMap", name) if name else None
        if held is None or path is None:
            return None
        key = posixpath.basename(path)
        if key not in (at(held, "data") or {}):
            keys = ", ".join(at(held, "data") or {}) or "nothing"
            raise ConfigError(f"the ConfigMap {name} holds {keys}, and the command reads {path}. Name the file {key}.")
        overrides = [one for one in self.words if _OVERRIDE.fullmatch(one)]
        return build_config(parse_yaml(held["data"][key], f"{name}/{key}"), overrides, f"{name}/{key}")


def container_of(pod: Pod) -> Mapping[str, Any]:
    """The container in which ranks run."""
    named = [one for one in pod.containers if one.get("name") in _CONTAINERS]
    return (named or pod.containers or [{}])[0]


def gpus_of(pod: Pod, owner: Manifest | None = None) -> int:
    """Of one pod. A TrainJob's own figure stands before its runtime's."""
    resources = at(owner, "spec", "trainer", "resourcesPerNode") or container_of(pod).get("resources")
    count = at(resources, "limits", GPU)
    return int(count) if str(count).isdecimal() else 0


def volume_of(pod: Pod, path: str) -> Mapping[str, Any] | None:
    """The volume in which a path of the container lies; None where it is in the image."""
    mounts = container_of(pod).get("volumeMounts") or []
    above = [one for one in mounts if f"{path}/".startswith(str(one.get("mountPath", "?")).rstrip("/") + "/")]
    if not above:
        return None
    name = max(above, key=lambda one: len(one["mountPath"])).get("name")
    return next((one for one in pod.spec.get("volumes") or [] if one.get("name") == name), None)


def trainings(found: Manifests) -> list[Training]:
    """In the order of the manifests."""
    return [one for manifest in found.of(*TRAINING_KINDS, "RayJob") for one in _training(manifest, found)]


def _training(manifest: Manifest, found: Manifests) -> Iterator[Training]:
    kind, spec = manifest["kind"], at(manifest, "spec") or {}
    pods = [one for one in pods_of(manifest) if one.role != SUBMITTER]
    starter = pods[0] if pods else None
    if kind == "TrainJob":
        reference = at(spec, "runtimeRef") or {}
        runtime = found.named(reference.get("kind", RUNTIMES[1]), reference.get("name"))
        pods = list(pods_of(runtime)) if runtime else []
        starter = pods[0] if pods else None
    if kind == "MPIJob":
        starter = next((one for one in pods if one.role == "Launcher"), starter)
        pods = [one for one in pods if one.role == "Worker"]
    if starter is None or not pods:
        return
    words = _words(manifest, starter)
    if words is None:
        return
    yield Training(manifest, tuple(pods), _nodes(manifest, pods), _processes(manifest, pods), words, starter)


def _nodes(manifest: Manifest, pods: list[Pod]) -> int:
    most = at(manifest, "spec", "elasticPolicy", "maxReplicas") or at(manifest, "spec", "trainer", "numNodes")
    return most if isinstance(most, int) else sum(one.replicas for one in pods)


def _processes(manifest: Manifest, pods: list[Pod]) -> str:
    spec, kind = at(manifest, "spec") or {}, manifest["kind"]
    if kind == "PyTorchJob":
        return str(spec.get("nprocPerNode") or at(spec, "elasticPolicy", "nProcPerNode") or "auto")
    if kind == "TrainJob":
        return str(at(spec, "trainer", "numProcPerNode") or "auto")
    if kind == "MPIJob":
        return str(spec.get("slotsPerWorker") or 1)
    if kind == "RayJob":
        return "auto"  # of each trial: the search says
    return environ_of(pods[0]).get(PROCESSES, "1")


def environ_of(pod: Pod) -> dict[str, str]:
    """Variables whose value the manifest has."""
    return {str(one.get("name")): str(one["value"]) for one in container_of(pod).get("env") or [] if "value" in one}


def _words(manifest: Manifest, starter: Pod) -> tuple[str, ...] | None:
    if manifest["kind"] == "RayJob":
        return _words_of_search(str(at(manifest, "spec", "entrypoint") or ""))
    container = container_of(starter)
    command = at(manifest, "spec", "trainer", "command") or container.get("command") or []
    args = at(manifest, "spec", "trainer", "args") or container.get("args") or []
    words = [str(one) for one in [*command, *args]]
    if "train" in words:
        return tuple(words[words.index("train") + 1 :])
    if any(posixpath.basename(one) in ("mpirun.sh", "torchrun.sh", "horovodrun.sh") for one in words):
        return tuple(words)
    return None


def _words_of_search(entrypoint: str) -> tuple[str, ...] | None:
    try:
        words = shlex.split(entrypoint)
    except ValueError:  # a quotation without an end: the shell will say so
        return None
    return tuple(words[words.index("tune") + 1 :]) if "tune" in words else None


def option(words: tuple[str, ...], name: str) -> str | None:
    """The value of an option in a command; None where it is not given."""
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None
