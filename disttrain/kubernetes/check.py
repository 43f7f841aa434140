"""All checks of an overlay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from disttrain.kubernetes import contradictions, crds, hardening, operators, quantities, references, schemas
from disttrain.kubernetes.manifests import Finding, Manifests


def check(
    found: Manifests,
    crd_folders: Sequence[Path],
    versions: Sequence[str] = schemas.VERSIONS,
    nodes: Sequence[Mapping[str, Any]] | None = None,
) -> list[Finding]:
    """What is wrong, each once: first what the server would refuse. What is not well-formed is not looked into."""
    known: dict[tuple[str, str], crds.Schema] = {}
    for folder in crd_folders:
        known.update(crds.load(folder))
    made = schemas.findings(found, known, versions) + operators.findings(found)
    if not made:
        made = references.findings(found) + contradictions.findings(found) + hardening.findings(found)
        made += quantities.too_large(found, nodes) if nodes is not None else []
    return list(dict.fromkeys(made))
