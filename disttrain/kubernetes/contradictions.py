"""What each part allows and what does not go together: it would show in the running job, late or as a wrong result."""

from __future__ import annotations

from collections.abc import Iterator

from disttrain.config import Config
from disttrain.data.batch_plan import check_world_size
from disttrain.errors import ConfigError
from disttrain.kubernetes.manifests import Finding, Manifests, Pod, at, name_of
from disttrain.kubernetes.quantities import quantity
from disttrain.kubernetes.trainings import (
    ADDRESS,
    NODES,
    Training,
    container_of,
    environ_of,
    gpus_of,
    option,
    trainings,
    volume_of,
)

_ENDED = {2, 3, 4, 5}
"""Exit codes after which the same command would end in the same way."""
_BEYOND_NOTICE_S = 15  # to report, and to close files on a volume over the network
_SHARED = ("persistentVolumeClaim", "nfs", "cephfs", "csi", "glusterfs", "ephemeral")


def findings(found: Manifests) -> list[Finding]:
    """Of every training and server."""
    made = []
    for one in trainings(found):
        config = None
        try:
            config = one.config(found)
        except ConfigError as error:
            made.append(Finding(one.where, str(error)))
        made += [Finding(one.where, message) for check in _CHECKS for message in check(one, config, found)]
    return made + [one for pod in found.pods() for one in _memory(pod)] + list(_servers(found))


def _grace(one: Training, config: Config | None, found: Manifests) -> Iterator[str]:
    notice = (config or Config()).checkpoint.notice_s
    for pod in one.pods:
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if isinstance(grace, int) and grace < notice + _BEYOND_NOTICE_S:
            yield (
                f"terminationGracePeriodSeconds={grace} with checkpoint.notice_s={notice:g}: the pod would be killed "
                f"while it saves. Take at least {notice + _BEYOND_NOTICE_S:g} s, or a shorter checkpoint.notice_s."
            )


def _run_dir(one: Training, config: Config | None, found: Manifests) -> Iterator[str]:
    path, name = one.run_dir, one.folder_option
    if path is None:
        yield f"the command has no {name}: a pod that comes back would not find its run. Give one on a volume."
        return
    for pod in {id(pod): pod for pod in (*one.pods, one.starter)}.values():
        volume = volume_of(pod, path)
        if volume is None:
            yield f"{name} {path} lies in the image of {pod.where}: it is gone with the pod. Mount a volume there."
        elif not any(kind in volume for kind in _SHARED):
            kind = ", ".join(key for key in volume if key != "name")
            yield f"{name} {path} lies on {volume['name']}, an {kind} of each pod. Take a persistentVolumeClaim."
        else:
            claim = found.named("PersistentVolumeClaim", at(volume, "persistentVolumeClaim", "claimName"))
            modes = at(claim, "spec", "accessModes") or ["ReadWriteMany"]
            if one.nodes > 1 and "ReadWriteMany" not in modes:
                yield (
                    f"{name} {path} lies on the claim {at(claim, 'metadata', 'name')} with accessModes {modes}, and "
                    f"the job has {one.nodes} pods: on several nodes they need ReadWriteMany."
                )
        mounts = [m for m in container_of(pod).get("volumeMounts") or [] if volume and m.get("name") == volume["name"]]
        if any(mount.get("readOnly") for mount in mounts):
            yield f"{name} {path} lies on a volume that {pod.where} mounts readOnly. Take readOnly out."


def _ranks(one: Training, config: Config | None, found: Manifests) -> Iterator[str]:
    if config is None or one.ranks is None:
        return
    try:
        check_world_size(config.batch.global_batch_size, one.ranks)
    except ConfigError as error:
        yield f"{error} ({one.nodes} pods with {one.processes} ranks each.)"


def _gpus(one: Training, config: Config | None, found: Manifests) -> Iterator[str]:
    for pod in one.pods:
        gpus = gpus_of(pod, one.manifest)
        if one.processes.isdecimal() and gpus and int(one.processes) != gpus:
            yield (
                f"{one.processes} ranks in a pod with {gpus} GPUs ({pod.where}): a rank takes one GPU. Make both equal."
            )
        if one.processes == "auto" and gpus > 1 and one.manifest["kind"] == "PyTorchJob":
            yield (
                f"nprocPerNode=auto in a pod with {gpus} GPUs ({pod.where}): the operator then counts one rank a pod. "
                f'Set nprocPerNode: "{gpus}".'
            )
        if config is not None and config.train.device == "cuda" and not gpus:
            yield f"train.device=cuda, and {pod.where} asks for no GPU. Set limits nvidia.com/gpu, or device=auto."


def _restarts(one: Training, config: Config | None, found: Manifests) -> Iterator[str]:
    kind, spec = one.manifest["kind"], one.manifest.get("spec") or {}
    if kind == "PyTorchJob":
        for role, replicas in (spec.get("pytorchReplicaSpecs") or {}).items():
            if at(replicas, "restartPolicy") != "ExitCode":
                yield (
                    f"{role} has restartPolicy={at(replicas, 'restartPolicy')}: it starts what ended with a mistake in "
                    "the config again too. Take ExitCode."
                )
        if at(spec, "runPolicy", "backoffLimit") is None:
            yield "runPolicy.backoffLimit is not set: a pod could be started again for ever. Set one, like 20."
    if kind == "Job":
        final = {
            code
            for rule in at(spec, "podFailurePolicy", "rules") or []
            if rule.get("action") == "FailJob" and at(rule, "onExitCodes", "operator") == "In"
            for code in at(rule, "onExitCodes", "values") or []
        }
        if missing := sorted(_ENDED - final):
            yield f"podFailurePolicy does not fail the Job on the exit codes {missing}: it would run in vain. Add them."
        if spec.get("completions", 1) > 1 and spec.get("completionMode") != "Indexed":
            yield "completionMode is not Indexed: its pods could not tell which of them they are."
        if spec.get("completions", 1) != spec.get("parallelism", 1):
            yield (
                f"completions={spec.get('completions', 1)}, parallelism={spec.get('parallelism', 1)}: all pods of a "
                "training run at the same time. Make the two equal."
            )
    if kind == "StatefulSet" and (container_of(one.starter).get("command") or [""])[0].endswith("disttrain"):
        yield "a StatefulSet starts its containers again whatever they end with. Use run.sh of k8s/base/statefulset."
    if kind == "RayJob" and "--resume" not in one.words and spec.get("backoffLimit"):
        yield (
            f"backoffLimit={spec['backoffLimit']}, and disttrain tune without --resume refuses a folder that holds a "
            "search: no retry could go on. Add --resume."
        )
    if "never" in one.words and "DISTTRAIN_JOB_ID" not in environ_of(one.starter):
        yield "--resume never without DISTTRAIN_JOB_ID: each pod that comes back would begin anew. Set it to a name."


def _nodes(one: Training, config: Config | None, found: Manifests) -> Iterator[str]:
    """Where no operator sets the variables."""
    if one.manifest["kind"] not in ("Job", "StatefulSet") or one.nodes == 1:
        return
    environ = environ_of(one.pods[0])
    if environ.get(NODES) != str(one.nodes):
        yield f"PET_NNODES={environ.get(NODES)}, and there are {one.nodes} pods. Make the two equal."
    host, _, service = environ.get(ADDRESS, "").partition(".")
    name = at(one.manifest, "metadata", "name")
    if host != f"{name}-0" or found.named("Service", service.partition(".")[0]) is None:
        yield (
            f"PET_MASTER_ADDR={environ.get(ADDRESS)}: it must be {name}-0.<a headless Service here>, "
            "the name of the first pod."
        )
    domain = one.pods[0].spec.get("subdomain") or at(one.manifest, "spec", "serviceName")
    if service and domain != service.partition(".")[0]:
        yield f"the pods are below {domain}, and PET_MASTER_ADDR is below {service}. Make the two equal."


def _ray_nodes(one: Training, config: Config | None, found: Manifests) -> Iterator[str]:
    if one.manifest["kind"] != "RayJob":
        return
    if option(one.words, "--ray-address") is None:
        yield "the command has no --ray-address: it would search on the head alone. Add --ray-address auto."
    elif (told := option(one.words, "--ray-nodes")) != str(one.nodes):
        yield f"--ray-nodes {told}, and the cluster has {one.nodes} pods, its head included. Make the two equal."


def _shared_memory(one: Training, config: Config | None, found: Manifests) -> Iterator[str]:
    for pod in one.pods:
        volume = volume_of(pod, "/dev/shm")
        if at(volume, "emptyDir", "medium") != "Memory":
            yield f"{pod.where} has 64 MiB of /dev/shm: loaders and NCCL need more. Mount a memory emptyDir there."


def _data(one: Training, config: Config | None, found: Manifests) -> Iterator[str]:
    for name, path in (
        ("data.path", config and config.data.path),
        ("data.cache_dir", config and config.data.cache_dir),
    ):
        for pod in one.pods if path else ():
            if volume_of(pod, str(path)) is None:
                yield (
                    f"{name}={path} lies in no volume of {pod.where}. Give its place in the pods, like "
                    "/data/planesnet.zip on the claim disttrain-data."
                )


_CHECKS = (_grace, _run_dir, _ranks, _gpus, _restarts, _nodes, _ray_nodes, _shared_memory, _data)


def _memory(pod: Pod) -> Iterator[Finding]:
    """What lies in memory counts as the container's."""
    limit = quantity(at(container_of(pod), "resources", "limits", "memory"))
    for volume in pod.spec.get("volumes") or []:
        if at(volume, "emptyDir", "medium") == "Memory":
            size = quantity(at(volume, "emptyDir", "sizeLimit"))
            if size is None:
                yield Finding(pod.where, f"the memory volume {volume.get('name')} has no sizeLimit. Set one.")
            elif limit is not None and size >= limit:
                yield Finding(
                    pod.where,
                    f"the memory volume {volume.get('name')} may hold as much as the container's memory limit, and "
                    "counts as its memory: it would be killed. Raise the limit, or lower sizeLimit.",
                )


def _servers(found: Manifests) -> Iterator[Finding]:
    for manifest in found.of("Deployment"):
        for pod in (one for one in found.pods() if one.owner is manifest):
            words = [str(one) for one in container_of(pod).get("args") or []]
            if "serve" not in words:
                continue
            need = _seconds(words, "--drain-s", 5) + _seconds(words, "--request-timeout-s", 60)
            grace = pod.spec.get("terminationGracePeriodSeconds", 30)
            if isinstance(grace, int) and grace < need:
                yield Finding(
                    name_of(manifest),
                    f"terminationGracePeriodSeconds={grace}, and the server takes up to {need:g} s to leave (--drain-s "
                    f"and --request-timeout-s). Take at least {need:g}.",
                )
            if "--host" not in words:
                yield Finding(
                    name_of(manifest), "serve without --host listens to its own pod only. Add --host 0.0.0.0."
                )
            for probe in ("readinessProbe", "livenessProbe"):
                if not container_of(pod).get(probe):
                    yield Finding(name_of(manifest), f"there is no {probe}: see k8s/base/serve.")


def _seconds(words: list[str], name: str, default: float) -> float:
    try:
        return float(words[words.index(name) + 1]) if name in words else default
    except (IndexError, ValueError):
        return default
