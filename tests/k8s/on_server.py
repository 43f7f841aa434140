"""Our custom resources before a real API server: KUBECONFIG=... python -m tests.k8s.on_server

The server needs no core kinds (tests/k8s/crd_server.sh makes one). It must take every custom resource of overlays and
of launchers/kubernetes.sh, and refuse the variants in tests/k8s/broken with `server: true`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from disttrain.commands import kubernetes
from disttrain.kubernetes.manifests import Manifest, kubectl, name_of
from disttrain.kubernetes.render import KINDS

from .overlays import CRDS, OVERLAYS, REPOSITORY, broken, rendered

_CUSTOM = ("PyTorchJob", "TrainJob", "TrainingRuntime", "MPIJob", "RayJob")


def _call(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([kubectl(), *words], input=text, capture_output=True, text=True)


def _definitions() -> Iterator[dict[str, Any]]:
    for path in sorted(CRDS.glob("*.yaml.gz")):
        one = yaml.load(gzip.decompress(path.read_bytes()), Loader=yaml.CSafeLoader)
        yield one
        if one["spec"]["names"]["kind"] == "ClusterTrainingRuntime":  # the same for one namespace
            names = {"kind": "TrainingRuntime", "listKind": "TrainingRuntimeList"}
            names |= {"plural": "trainingruntimes", "singular": "trainingruntime"}
            spec = {**one["spec"], "names": names, "scope": "Namespaced"}
            yield {**one, "metadata": {"name": "trainingruntimes.trainer.kubeflow.org"}, "spec": spec}


def _take(manifest: Manifest) -> str:
    """Empty where the server takes it, else why not. Nothing is kept."""
    done = _call("create", "--dry-run=server", "--validate=strict", "-f", "-", text=json.dumps(manifest))
    return " ".join(done.stderr.split()) if done.returncode else ""


def _submitted(kind: str) -> list[Manifest]:
    made = io.StringIO()
    with contextlib.redirect_stdout(made):
        words = ["submit", "--dry-run", "--kind", kind, "--workers", "2", "--gpus", "4"]
        kubernetes.start([*words, str(REPOSITORY / "configs/planesnet.yaml"), "data.path=/data/planesnet.zip"])
    return list(yaml.safe_load_all(made.getvalue()))


def main() -> int:
    """How many things went otherwise than they must."""
    for one in _definitions():
        done = _call("create", "-f", "-", text=json.dumps(one))
        if done.returncode and "AlreadyExists" not in done.stderr:
            raise SystemExit(f"the server does not take {one['metadata']['name']}: {done.stderr}")
        _call("wait", "--for=condition=Established", "--timeout=60s", f"crd/{one['metadata']['name']}")
    wrong, taken, refused = 0, 0, 0
    sources: list[tuple[str, list[Manifest]]] = [(path.name, rendered(path.name).all) for path in _overlays()]
    sources += [(f"kubernetes.sh --kind {kind}", _submitted(kind)) for kind in KINDS]
    for source, manifests in sources:
        for manifest in manifests:
            if manifest["kind"] in _CUSTOM:
                reason = _take(manifest)
                print(f"{'REFUSED' if reason else 'taken'}  {source}: {name_of(manifest)} {reason}".rstrip())
                wrong, taken = wrong + bool(reason), taken + (not reason)
    for variant in broken():
        if variant.server:
            reason = _take(variant.make()[1])
            print(f"{'refused' if reason else 'TAKEN'}  {variant.overlay}: {variant.case}: {reason[:160]}")
            wrong, refused = wrong + (not reason), refused + bool(reason)
    print(f"{taken} taken, {refused} broken ones refused, {wrong} otherwise than they must")
    return wrong


def _overlays() -> list[Path]:
    return sorted(OVERLAYS.iterdir())


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
