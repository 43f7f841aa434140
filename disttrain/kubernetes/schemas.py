"""Core kinds against the API of several versions of Kubernetes, strictly: a field that it does not know is an error."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from disttrain.errors import ConfigError
from disttrain.kubernetes import crds
from disttrain.kubernetes.manifests import Finding, Manifests, name_of, pods_of

VERSIONS = ("1.29", "1.33", "1.37")
"""Of Kubernetes: what the shipped manifests are checked against. That of older ones is wrong about podFailurePolicy."""

_CORE = ("", "apps", "batch", "autoscaling", "policy")


def findings(
    found: Manifests, schemas: Mapping[tuple[str, str], crds.Schema], versions: Sequence[str]
) -> list[Finding]:
    """What the API server would refuse, or drop without a word."""
    return [one for manifest in found.all for one in _of_one(manifest, schemas, versions)]


def _of_one(
    manifest: dict[str, Any], schemas: Mapping[tuple[str, str], crds.Schema], versions: Sequence[str]
) -> Iterator[Finding]:
    where, group = name_of(manifest), crds.group_of(manifest)
    if group in _CORE or group.endswith(".k8s.io"):
        if message := _core_error(json.dumps(manifest, sort_keys=True, default=str), tuple(versions)):
            yield Finding(where, message)
        return
    messages = crds.errors(schemas, manifest)
    if messages is None:
        known = sorted(f"{version} {kind}" for version, kind in schemas)
        message = (
            f"nothing is known of {manifest['apiVersion']} {manifest['kind']}. Known: {', '.join(known)}. Correct it, "
            "or name a folder with its CustomResourceDefinition by --crds."
        )
        messages = [message]
    for one in messages:
        yield Finding(where, one)
    if not messages:
        for pod in pods_of(manifest):  # where the operator's definition of a template is less strict than the core's
            made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": dict(pod.spec)}
            if message := _core_error(json.dumps(made, sort_keys=True, default=str), tuple(versions)):
                yield Finding(pod.where, message)


@functools.lru_cache(maxsize=512)
def _core_error(text: str, versions: tuple[str, ...]) -> str | None:
    try:
        import kubernetes_validate as core
    except ImportError:
        raise ConfigError(
            "the schemas of Kubernetes are not installed. pip install 'disttrain[kubernetes]' installs them."
        ) from None
    manifest = json.loads(text)
    for version in versions:
        try:
            core.validate(manifest, version, strict=True)
        except core.ValidationError as error:
            inner = min(error.context or [error], key=lambda one: -len(one.absolute_path))
            path = ".".join(map(str, inner.absolute_path))
            return f"{path}: {inner.message[:300]} (Kubernetes {version})"
        except core.SchemaNotFoundError:
            return f"Kubernetes {version} has no {manifest['kind']} in {manifest['apiVersion']}"
        except core.utils.VersionNotSupportedError:
            raise ConfigError(f"--versions {version}: there is no schema of it. Give some like {VERSIONS}.") from None
    return None
