"""Names that one part of an overlay uses and another must have: volumes, ConfigMaps, claims, selectors, ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from disttrain.kubernetes.manifests import Finding, Manifest, Manifests, Pod, at, name_of


def findings(found: Manifests) -> list[Finding]:
    """Claims and secrets may be in the cluster already, unless the overlay has some of the kind."""
    made = [one for pod in found.pods() for one in _pod(pod, found)]
    made += [one for manifest in found.of("Deployment", "StatefulSet") for one in _selects_own_pods(manifest)]
    made += [one for service in found.of("Service") for one in _service(service, found)]
    made += [one for scaler in found.of("HorizontalPodAutoscaler") for one in _scaler(scaler, found)]
    made += [one for budget in found.of("PodDisruptionBudget") for one in _budget(budget, found)]
    return made + [one for ingress in found.of("Ingress") for one in _ingress(ingress, found)]


def _pod(pod: Pod, found: Manifests) -> Iterator[Finding]:
    volumes = {str(one.get("name")) for one in pod.spec.get("volumes") or []}
    used: set[str] = set()
    for one in [*(pod.spec.get("initContainers") or []), *pod.containers]:
        for mount in one.get("volumeMounts") or []:
            used.add(str(mount.get("name")))
            if mount.get("name") not in volumes:
                yield Finding(
                    pod.where, f"volumeMounts names {mount.get('name')!r}, and volumes has {sorted(volumes)}."
                )
    for name in sorted(volumes - used):
        yield Finding(pod.where, f"the volume {name} is mounted nowhere. Mount it, or take it out.")
    for volume in pod.spec.get("volumes") or []:
        name = at(volume, "configMap", "name")
        if name is not None and not at(volume, "configMap", "optional") and found.named("ConfigMap", name) is None:
            yield Finding(
                pod.where,
                f"the ConfigMap {name} is not in the overlay: its pods would wait for it for ever. Add a "
                "configMapGenerator, or the component k8s/components/config.",
            )
    names = [str(one.get("name")) for one in pod.containers]
    for rule in at(pod.owner, "spec", "podFailurePolicy", "rules") or []:
        wanted = at(rule, "onExitCodes", "containerName")
        if wanted is not None and wanted not in names:
            yield Finding(pod.where, f"podFailurePolicy names the container {wanted!r}: there is {', '.join(names)}.")


def _matches(selector: Any, labels: Mapping[str, str]) -> bool:
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _selects_own_pods(manifest: Manifest) -> Iterator[Finding]:
    selector = at(manifest, "spec", "selector", "matchLabels")
    if not _matches(selector, at(manifest, "spec", "template", "metadata", "labels") or {}):
        yield Finding(name_of(manifest), f"its selector {selector} does not match the labels of its own pods.")
    if manifest["kind"] == "StatefulSet" and not at(manifest, "spec", "serviceName"):
        yield Finding(name_of(manifest), "serviceName is not set: its pods have no names that others could look up.")


def _service(service: Manifest, found: Manifests) -> Iterator[Finding]:
    selector = at(service, "spec", "selector")
    pods = [pod for pod in found.pods() if _matches(selector, pod.labels)]
    if selector and not pods:
        yield Finding(name_of(service), f"its selector {selector} matches no pod here.")
    for port in at(service, "spec", "ports") or []:
        target = port.get("targetPort", port.get("port"))
        ports = [one for pod in pods for container in pod.containers for one in container.get("ports") or []]
        known = [one.get("name") for one in ports] + [one.get("containerPort") for one in ports]
        if ports and target not in known:
            yield Finding(name_of(service), f"targetPort {target}: its pods have {[one for one in known if one]}.")
    headless = at(service, "spec", "clusterIP") == "None"
    if headless and pods and not at(service, "spec", "publishNotReadyAddresses"):
        yield Finding(
            name_of(service),
            "publishNotReadyAddresses is not true: the pods meet before they are ready, by these names.",
        )


def _scaler(scaler: Manifest, found: Manifests) -> Iterator[Finding]:
    target = at(scaler, "spec", "scaleTargetRef")
    scaled = found.named(str(at(target, "kind")), at(target, "name"))
    if scaled is None:
        yield Finding(name_of(scaler), f"its target {at(target, 'kind')}/{at(target, 'name')} is not here.")
    low, high = at(scaler, "spec", "minReplicas") or 1, at(scaler, "spec", "maxReplicas") or 1
    if low > high:
        yield Finding(name_of(scaler), f"minReplicas={low} is more than maxReplicas={high}.")


def _budget(budget: Manifest, found: Manifests) -> Iterator[Finding]:
    selector, least = at(budget, "spec", "selector", "matchLabels"), at(budget, "spec", "minAvailable")
    pods = [pod for pod in found.pods() if _matches(selector, pod.labels)]
    if not pods:
        yield Finding(name_of(budget), f"its selector {selector} matches no pod here.")
    scalers = {at(one, "spec", "scaleTargetRef", "name"): at(one, "spec", "minReplicas") or 1
               for one in found.of("HorizontalPodAutoscaler")}  # fmt: skip
    for pod in pods:
        replicas = scalers.get(at(pod.owner, "metadata", "name"), pod.replicas)
        if isinstance(least, int) and least >= replicas:
            yield Finding(
                name_of(budget),
                f"minAvailable={least} with {replicas} replicas at least: no node could ever be drained. Take "
                f"{replicas - 1 or 'more replicas'}.",
            )


def _ingress(ingress: Manifest, found: Manifests) -> Iterator[Finding]:
    for rule in at(ingress, "spec", "rules") or []:
        for path in at(rule, "http", "paths") or []:
            name = at(path, "backend", "service", "name")
            service = found.named("Service", name)
            if service is None:
                yield Finding(name_of(ingress), f"its Service {name} is not here.")
            wanted = at(path, "backend", "service", "port")
            ports = at(service, "spec", "ports") or []
            if service is not None and not any(
                one.get("name") == at(wanted, "name") or one.get("port") == at(wanted, "number") for one in ports
            ):
                yield Finding(name_of(ingress), f"the port {wanted}: the Service {name} has {ports}.")
