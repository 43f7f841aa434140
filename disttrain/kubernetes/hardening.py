"""What a cluster with the `restricted` Pod Security Standard asks of a pod, and what keeps its node from harm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from disttrain.kubernetes.manifests import Finding, Manifests, Pod, at

_HOST = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")


def findings(found: Manifests) -> list[Finding]:
    """Of every pod."""
    return [one for pod in found.pods() for one in _pod(pod)]


def _pod(pod: Pod) -> Iterator[Finding]:
    spec = pod.spec
    for name in _HOST:
        if spec.get(name):
            yield Finding(pod.where, f"{name} is true: a pod shares nothing with its node. Take it out.")
    if spec.get("automountServiceAccountToken") is not False:
        yield Finding(pod.where, "automountServiceAccountToken must be false: nothing here asks the API server.")
    if not isinstance(spec.get("terminationGracePeriodSeconds"), int):
        yield Finding(pod.where, "terminationGracePeriodSeconds is not set: the default is 30 s, too short for a save.")
    for volume in spec.get("volumes") or []:
        if "hostPath" in volume:
            yield Finding(pod.where, f"the volume {volume.get('name')} is a hostPath. Take a persistentVolumeClaim.")
    for one in [*(spec.get("initContainers") or []), *pod.containers]:
        yield from _container(pod, one)


def _container(pod: Pod, container: Mapping[str, Any]) -> Iterator[Finding]:
    where = f"{pod.where}, container {container.get('name')}"

    def effective(name: str) -> Any:
        own = at(container, "securityContext", name)
        return own if own is not None else at(pod.spec, "securityContext", name)

    if effective("runAsNonRoot") is not True:
        yield Finding(where, "runAsNonRoot must be true, in the pod's or the container's securityContext.")
    if effective("runAsUser") == 0:
        yield Finding(where, "runAsUser is 0, which is root. Take 10001, the user of the images.")
    if at(effective("seccompProfile"), "type") not in ("RuntimeDefault", "Localhost"):
        yield Finding(where, "seccompProfile.type must be RuntimeDefault.")
    context = at(container, "securityContext")
    if at(context, "privileged"):
        yield Finding(where, "privileged is true. Take it out.")
    if at(context, "allowPrivilegeEscalation") is not False:
        yield Finding(where, "securityContext.allowPrivilegeEscalation must be false.")
    if at(context, "readOnlyRootFilesystem") is not True:
        yield Finding(where, "securityContext.readOnlyRootFilesystem must be true; what is written goes to volumes.")
    if "ALL" not in (at(context, "capabilities", "drop") or []):
        yield Finding(where, "securityContext.capabilities.drop must be [ALL].")
    if added := at(context, "capabilities", "add"):
        yield Finding(where, f"securityContext.capabilities.add is {added}. Take it out.")
    for side, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
        if at(container, "resources", side, name) is None:
            yield Finding(where, f"resources.{side}.{name} is not set.")
    if "image" in container:
        yield from _image(where, str(container["image"]))


def _image(where: str, image: str) -> Iterator[Finding]:
    last = image.rpartition("/")[2]
    if "@" not in last and (":" not in last or last.endswith(":latest")):
        yield Finding(
            where, f"the image {image} has no fixed version: pods started later would run another. Name a tag."
        )
