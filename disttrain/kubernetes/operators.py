"""What the operators' admission webhooks refuse, or would take and never start: rules that no definition carries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from disttrain.kubernetes.manifests import RUNTIMES, Finding, Manifest, Manifests, Pod, at, name_of, pods_of

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_PROCESSES = re.compile(r"auto|gpu|cpu|[1-9][0-9]*")
_BACKENDS = ("c10d", "etcd", "etcd-v2")
_LONGEST = 63
_LONGEST_RAYJOB = 47
_SUBMISSION = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
_TOKEN_SINCE = (2, 52)  # Ray's version


def findings(found: Manifests) -> list[Finding]:
    """The messages name the rule and the way out."""
    made = [one for job in found.of("PyTorchJob") for one in _pytorchjob(job)]
    made += [one for job in found.of("MPIJob") for one in _mpijob(job)]
    made += [one for job in found.of("TrainJob") for one in _trainjob(job, found)]
    made += [one for job in found.of("RayJob") for one in _rayjob(job)]
    made += [one for job in found.of("PyTorchJob", "MPIJob", "TrainJob", "Job", "StatefulSet") for one in _name(job)]
    return made


def _name(job: Manifest) -> Iterator[Finding]:
    """The longest name that is made of the job's must be a host's."""
    where, name = name_of(job), str(at(job, "metadata", "name"))
    if not _LABEL.fullmatch(name):
        yield Finding(
            where,
            f"{name!r} must begin with a letter and hold a-z, 0-9 and - only, since its pods' host names begin so.",
        )
    tail = max((_tail(job, pod) for pod in pods_of(job)), key=len, default="-node-0-99-xxxxx")
    if len(name) + len(tail) > _LONGEST:
        yield Finding(
            where,
            f"the name has {len(name)} characters, and its pods are called {name}{tail}: {_LONGEST} is the longest. "
            f"Take one of at most {_LONGEST - len(tail)} characters.",
        )


def _tail(job: Manifest, pod: Pod) -> str:
    index = max(0, pod.replicas - 1)
    made = {"PyTorchJob": f"-{pod.role.lower()}-{index}", "MPIJob": f"-{pod.role.lower()}-{index}"}
    return made.get(str(job["kind"]), f"-{index}-xxxxx" if job["kind"] == "Job" else f"-{index}")


def _pytorchjob(job: Manifest) -> Iterator[Finding]:
    where, spec = name_of(job), at(job, "spec") or {}
    roles = at(spec, "pytorchReplicaSpecs") or {}
    elastic = at(spec, "elasticPolicy")
    for pod in pods_of(job):
        if pod.role not in ("Master", "Worker"):
            yield Finding(pod.where, f"the replica type {pod.role!r}: there are Master and Worker.")
        yield from _has_container(pod, "pytorch")
    if at(roles, "Master", "replicas") not in (None, 1):
        yield Finding(
            where, f"Master has replicas={at(roles, 'Master', 'replicas')}: there is 1. The others are Workers."
        )
    if "Worker" in roles and at(roles, "Worker", "replicas") == 0:
        yield Finding(where, "Worker has replicas=0: at least 1. Leave Worker out for a job of one pod.")
    if elastic is None and "Master" not in roles:
        yield Finding(
            where, "there is no Master: without it, and without an elasticPolicy, the pods have no place to meet."
        )
    if elastic is not None:
        yield from _elastic(where, elastic, roles, spec)
    processes = str(at(spec, "nprocPerNode") or "auto")
    if not _PROCESSES.fullmatch(processes):
        yield Finding(where, f"nprocPerNode={processes!r}: auto, gpu, cpu or a number of at least 1, in quotes.")


def _elastic(where: str, elastic: Any, roles: Any, spec: Any) -> Iterator[Finding]:
    if "Worker" not in roles:
        yield Finding(where, "elasticPolicy without Worker: its pods are Workers. Add them.")
    if "Master" in roles:
        yield Finding(
            where,
            "elasticPolicy with a Master: minReplicas and maxReplicas count Workers, and the Master joins as one more. "
            "Take the Master out.",
        )
    if at(spec, "nprocPerNode") is not None and at(elastic, "nProcPerNode") is not None:
        yield Finding(where, "nprocPerNode and elasticPolicy.nProcPerNode are both set. Take the second out.")
    backend = at(elastic, "rdzvBackend") or "c10d"
    if backend not in _BACKENDS:
        yield Finding(where, f"rdzvBackend={backend!r}: one of {', '.join(_BACKENDS)}; c10d needs no other service.")
    low, high, have = at(elastic, "minReplicas"), at(elastic, "maxReplicas"), at(roles, "Worker", "replicas") or 1
    if isinstance(low, int) and isinstance(high, int) and not 1 <= low <= have <= high:
        yield Finding(
            where, f"minReplicas={low}, Worker.replicas={have}, maxReplicas={high}: they must be in this order."
        )


def _mpijob(job: Manifest) -> Iterator[Finding]:
    where, spec = name_of(job), at(job, "spec") or {}
    roles = at(spec, "mpiReplicaSpecs") or {}
    if job["apiVersion"] != "kubeflow.org/v2beta1":
        yield Finding(where, f"{job['apiVersion']}: the MPI operator's own is kubeflow.org/v2beta1.")
    if at(roles, "Launcher", "replicas") not in (None, 1) or "Launcher" not in roles:
        yield Finding(where, "an MPIJob has one Launcher.")
    if not isinstance(at(roles, "Worker", "replicas") or 1, int) or at(roles, "Worker", "replicas") == 0:
        yield Finding(where, "Worker has no replicas: at least 1.")
    for role in roles:
        policy = at(roles, role, "restartPolicy")
        if policy not in (None, "Never", "OnFailure"):
            yield Finding(where, f"{role} has restartPolicy={policy}: the operator takes Never and OnFailure.")
    words = next(
        (one.get("args") or [] for pod in pods_of(job) if pod.role == "Launcher" for one in pod.containers), []
    )
    ranks = (at(roles, "Worker", "replicas") or 1) * (at(spec, "slotsPerWorker") or 1)
    for at_word, word in enumerate(words[:-1]):
        if word in ("-np", "-n", "--np") and words[at_word + 1] != str(ranks):
            yield Finding(
                where,
                f"mpirun {word} {words[at_word + 1]}, and Worker.replicas x slotsPerWorker = {ranks}: make them equal.",
            )


def _trainjob(job: Manifest, found: Manifests) -> Iterator[Finding]:
    where = name_of(job)
    kind, name = (
        at(job, "spec", "runtimeRef", "kind") or "ClusterTrainingRuntime",
        at(job, "spec", "runtimeRef", "name"),
    )
    runtime = found.named(kind, name)
    if runtime is None and any(found.of(*RUNTIMES)):
        yield Finding(where, f"its runtime {kind}/{name} is not here. Correct spec.runtimeRef.")
    reserved = [one.get("name", "") for one in at(job, "spec", "trainer", "env") or []]
    if taken := [one for one in reserved if one.startswith("PET_")]:
        yield Finding(where, f"spec.trainer.env has {', '.join(taken)}: the operator sets PET_*. Take them out.")
    for pod in pods_of(runtime) if runtime is not None else ():
        yield from _has_container(pod, "node")


def _rayjob(job: Manifest) -> Iterator[Finding]:
    where, spec, name = name_of(job), at(job, "spec") or {}, str(at(job, "metadata", "name"))
    if len(name) > _LONGEST_RAYJOB or not _LABEL.fullmatch(name):
        yield Finding(
            where,
            f"{name!r} must begin with a letter, hold a-z, 0-9 and - only, and have {_LONGEST_RAYJOB} characters at "
            "most, since the names of its cluster and pods begin so.",
        )
    mode = spec.get("submissionMode") or "K8sJobMode"
    if mode not in _SUBMISSION:
        yield Finding(where, f"submissionMode={mode!r}: one of {', '.join(_SUBMISSION)}.")
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield Finding(where, "SidecarMode with submitterPodTemplate or submitterConfig: it has no such pod. Leave out.")
    if mode == "InteractiveMode" and spec.get("backoffLimit"):
        yield Finding(where, f"backoffLimit={spec['backoffLimit']} with InteractiveMode: nothing could be retried.")
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        yield Finding(where, "ttlSecondsAfterFinished without shutdownAfterJobFinishes: set that to true.")
    if at(spec, "rayClusterSpec") is None and not spec.get("clusterSelector"):
        yield Finding(where, "neither rayClusterSpec nor clusterSelector is set: it would have no cluster. Set one.")
    version = str(at(spec, "rayClusterSpec", "rayVersion") or "")
    if at(spec, "rayClusterSpec", "authOptions", "mode") == "token" and _numbers(version) < _TOKEN_SINCE:
        yield Finding(
            where,
            f"authOptions.mode=token with rayVersion={version!r}: tokens need 2.52.0 or newer. Set rayVersion to the "
            "image's.",
        )
    for group in at(spec, "rayClusterSpec", "workerGroupSpecs") or []:
        low, have, high = (at(group, one) for one in ("minReplicas", "replicas", "maxReplicas"))
        if isinstance(low, int) and isinstance(high, int) and not low <= (low if have is None else have) <= high:
            yield Finding(where, f"minReplicas={low}, replicas={have}, maxReplicas={high}: they must be in this order.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(one) for one in re.findall(r"[0-9]+", version)[:2])


def _has_container(pod: Pod, name: str) -> Iterator[Finding]:
    names = [str(one.get("name")) for one in pod.containers]
    if name not in names:
        yield Finding(pod.where, f"its containers are called {', '.join(names) or 'nothing'}: one must be {name!r}.")
    for one in pod.containers:
        if one.get("name") == name and not one.get("image"):
            yield Finding(pod.where, f"the container {name!r} has no image.")
