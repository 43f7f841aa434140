"""The manifests of one training, made from an overlay: name, config, pods, GPUs, image and arguments put in."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disttrain.errors import ConfigError
from disttrain.kubernetes.manifests import RUNTIMES, Manifest, Manifests, at, pods_of
from disttrain.kubernetes.trainings import GPU, NODES, PROCESSES, container_of

KINDS = {"pytorchjob": "PyTorchJob", "trainjob": "TrainJob", "mpijob": "MPIJob", "job": "Job"}
PLACEHOLDER = "train"
"""The name that the overlays of the repository have where the job's own belongs."""

_CONFIG = "/config/config.yaml"
_CPUS, _MEMORY_GIB, _SHM_GIB = 4, 16, 2  # for each GPU


@dataclass(frozen=True)
class Wanted:
    """What a user asks the launcher for."""

    kind: str
    name: str
    config: Path
    train: Sequence[str]
    """What follows CONFIG: overrides, and options of `disttrain train`."""
    run_dir: str
    workers: int | None = None
    gpus: int | None = None
    image: str | None = None


def render(wanted: Wanted, overlay: Manifests) -> Manifests:
    """The overlay's manifests for this job. Raises ConfigError where the overlay has no job of the kind."""
    made = Manifests([_renamed(copy.deepcopy(one), wanted.name) for one in overlay.all])
    jobs = made.of(KINDS[wanted.kind])
    if len(jobs) != 1:
        raise ConfigError(f"the overlay has {len(jobs)} of {KINDS[wanted.kind]}: there must be one. Correct --overlay.")
    job = jobs[0]
    config = made.named("ConfigMap", f"{wanted.name}-config")
    if config is None:
        raise ConfigError("the overlay has no ConfigMap train-config. Add the component k8s/components/config to it.")
    config["data"] = {"config.yaml": wanted.config.read_text(encoding="utf-8-sig")}
    runtimes = made.of(*RUNTIMES) if wanted.kind == "trainjob" else []
    if wanted.workers is not None:
        _set_workers(job, runtimes, wanted.workers)
    if wanted.gpus is not None:
        _set_gpus(job, runtimes, wanted.gpus)
    _set_command(job, wanted)
    for one in [job, *runtimes]:
        for pod in pods_of(one):
            for container in pod.containers:
                if wanted.image is not None:
                    container["image"] = wanted.image  # type: ignore[index]
    if wanted.kind == "trainjob" and wanted.image is not None:
        job["spec"]["trainer"]["image"] = wanted.image
    if wanted.kind == "mpijob":
        _set_rank_count(job)
    return made


def _renamed(manifest: Manifest, name: str) -> Manifest:
    """With the job's name wherever the overlay has its own."""

    def walk(value: Any, key: str = "", above: str = "") -> Any:
        if isinstance(value, dict):
            return {inner: walk(one, inner, key) for inner, one in value.items()}
        if isinstance(value, list):
            return [walk(one, key, above) for one in value]
        if not isinstance(value, str):
            return value
        is_name = key == "name" and above in ("metadata", "runtimeRef")
        if value == PLACEHOLDER and (is_name or key in ("app.kubernetes.io/instance", "subdomain", "value")):
            return name
        for made in ("{}-config", "{}-0.{}", "MASTER_ADDR={0}-worker-0.{0}"):
            if value == made.format(PLACEHOLDER, PLACEHOLDER):
                return made.format(name, name)
        return value

    renamed: Manifest = walk(manifest)
    return renamed


def _set_workers(job: Manifest, runtimes: Sequence[Manifest], count: int) -> None:
    kind, spec = job["kind"], job["spec"]
    if kind == "PyTorchJob":
        roles = spec["pytorchReplicaSpecs"]
        masters = 1 if "Master" in roles else 0
        if count > masters:
            roles["Worker"]["replicas"] = count - masters
        else:
            roles.pop("Worker", None)
        if "schedulingPolicy" in spec.get("runPolicy", {}):
            spec["runPolicy"]["schedulingPolicy"]["minAvailable"] = count
    elif kind == "TrainJob":
        for one in (spec["trainer"], *(runtime["spec"]["mlPolicy"] for runtime in runtimes)):
            one["numNodes"] = count
    elif kind == "MPIJob":
        spec["mpiReplicaSpecs"]["Worker"]["replicas"] = count
        if "schedulingPolicy" in spec.get("runPolicy", {}):
            spec["runPolicy"]["schedulingPolicy"]["minAvailable"] = count + 1
    else:
        spec["completions"] = spec["parallelism"] = count
        _set_variable(job, NODES, str(count))
        annotations = at(spec, "template", "metadata", "annotations") or {}
        if "scheduling.volcano.sh/group-min-member" in annotations:
            annotations["scheduling.volcano.sh/group-min-member"] = str(count)


def _set_gpus(job: Manifest, runtimes: Sequence[Manifest], count: int) -> None:
    """GPUs of a pod, each for one rank, with cores and memory for them; 0: one rank on the CPU."""
    kind, spec, ranks = job["kind"], job["spec"], max(1, count)
    if kind == "PyTorchJob":
        spec["nprocPerNode"] = str(ranks)
    elif kind == "TrainJob":
        spec["trainer"]["numProcPerNode"] = ranks
        spec["trainer"]["resourcesPerNode"] = _with_gpus(spec["trainer"]["resourcesPerNode"], count)
    elif kind == "MPIJob":
        spec["slotsPerWorker"] = ranks
    else:
        _set_variable(job, PROCESSES, str(ranks))
    for one in [job, *runtimes]:
        for pod in pods_of(one):
            if pod.role == "Launcher":
                continue
            container: Any = container_of(pod)
            container["resources"] = _with_gpus(container["resources"], count)
            for volume in pod.spec.get("volumes") or []:
                if count and at(volume, "emptyDir", "medium") == "Memory":
                    volume["emptyDir"]["sizeLimit"] = f"{_SHM_GIB * count}Gi"


def _with_gpus(resources: Any, count: int) -> Any:
    made = {side: {key: one for key, one in values.items() if key != GPU} for side, values in resources.items()}
    if count:
        memory = f"{_MEMORY_GIB * count}Gi"
        made.setdefault("requests", {}).update({"cpu": str(_CPUS * count), "memory": memory, GPU: count})
        made.setdefault("limits", {}).update({"memory": memory, GPU: count})
    return made


def _set_variable(job: Manifest, name: str, value: str) -> None:
    for pod in pods_of(job):
        for one in container_of(pod).get("env") or []:
            if one.get("name") == name:
                one["value"] = value


def _set_rank_count(job: Manifest) -> None:
    ranks = job["spec"]["mpiReplicaSpecs"]["Worker"].get("replicas", 1) * job["spec"].get("slotsPerWorker", 1)
    words = next(container_of(pod)["args"] for pod in pods_of(job) if pod.role == "Launcher")
    words[words.index("-np") + 1] = str(ranks)


def _set_command(job: Manifest, wanted: Wanted) -> None:
    train = [_CONFIG, "--run-dir", wanted.run_dir, *wanted.train]
    if job["kind"] == "TrainJob":
        job["spec"]["trainer"]["args"] = ["train", *train]
        return
    for pod in pods_of(job):
        container: Any = container_of(pod)
        if pod.role == "Launcher":
            at_config = next(index for index, word in enumerate(container["args"]) if word.endswith(".yaml"))
            container["args"] = [*container["args"][:at_config], *train]
        elif job["kind"] != "MPIJob":
            container["args"] = ["train", *train]
