"""The shipped overlays, rendered once, and the broken variants of them."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from disttrain.kubernetes.manifests import Manifest, Manifests, read

REPOSITORY = Path(__file__).resolve().parents[2]
OVERLAYS = REPOSITORY / "k8s/overlays"
CRDS = REPOSITORY / "k8s/crds"
KIND_OF = {
    "pytorchjob": "PyTorchJob",
    "pytorchjob-elastic": "PyTorchJob",
    "trainjob": "TrainJob",
    "mpijob": "MPIJob",
    "job": "Job",
    "statefulset": "StatefulSet",
    "serve": "Deployment",
    "tune": "RayJob",
}


class Broken(NamedTuple):
    """One change that must be refused."""

    overlay: str
    case: str
    kind: str
    patch: list[dict[str, Any]]
    says: str
    server: bool

    def make(self) -> tuple[Manifests, Manifest]:
        """The overlay with the change, and the manifest that has it."""
        found = Manifests(copy.deepcopy(rendered(self.overlay).all))
        changed = found.of(self.kind)[0]
        for one in self.patch:
            _apply(changed, one)
        return found, changed


@functools.cache
def rendered(overlay: str) -> Manifests:
    """Not to be changed."""
    return read([OVERLAYS / overlay])


def broken() -> list[Broken]:
    """All variants in tests/k8s/broken."""
    found = []
    for path in sorted((Path(__file__).parent / "broken").glob("*.yaml")):
        for one in yaml.safe_load(path.read_text(encoding="utf-8")):
            kind = one.get("of", KIND_OF[path.stem])
            found.append(Broken(path.stem, one["case"], kind, one["patch"], one["says"], one.get("server", False)))
    return found


def _apply(tree: Any, change: dict[str, Any]) -> None:
    *above, last = (word.replace("~1", "/") for word in change["path"].strip("/").split("/"))
    for word in above:
        tree = tree[int(word)] if isinstance(tree, list) else tree[word]
    if isinstance(tree, list):
        if int(last) == len(tree):
            tree.append(change["value"])
        else:
            tree[int(last)] = change["value"]
    elif change.get("remove"):
        del tree[last]
    else:
        tree[last] = change["value"]
