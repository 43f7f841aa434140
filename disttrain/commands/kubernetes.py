"""What `make check-k8s` and `launchers/kubernetes.sh` call: `check` looks at overlays, `submit` renders one."""

from __future__ import annotations

from disttrain.system.import_path import leave_working_directory

if __name__ == "__main__":
    leave_working_directory()

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from disttrain.commands.parser import parse
from disttrain.config import load_config
from disttrain.errors import ConfigError, exit_code_of, say
from disttrain.files import user_path
from disttrain.kubernetes.check import check as check_all
from disttrain.kubernetes.manifests import Finding, Manifests, at, kubectl, read
from disttrain.kubernetes.render import KINDS, Wanted, render
from disttrain.kubernetes.schemas import VERSIONS
from disttrain.system.streams import secure_streams

REPOSITORY = Path(__file__).resolve().parents[2]


class _Dumper(yaml.SafeDumper):
    """A file in a ConfigMap keeps its lines."""


_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, "|" if "\n" in text else None)
)


def check(arguments: argparse.Namespace) -> int:
    """Look at overlays and files, each on its own; 2 where anything is wrong."""
    folders = [REPOSITORY / "k8s/crds", *map(user_path, arguments.crds)]
    nodes = _read_nodes(arguments.nodes)
    wrong = 0
    for place in map(user_path, arguments.places):
        found = read([place])
        findings = check_all(found, folders, arguments.versions.split(","), nodes)
        _say_findings(str(place), findings)
        wrong += bool(findings)
        if not findings:
            sys.stdout.write(f"ok    {place}: {len(found.all)} manifests\n")
    return 2 if wrong else 0


def _say_findings(place: str, findings: Sequence[Finding]) -> None:
    for one in findings:
        say(f"{place}: {one.where}: {one.message}")


def _read_nodes(place: str | None) -> list[dict[str, Any]] | None:
    """From `kubectl get nodes -o json`, in a file. None: nobody knows."""
    if place is None:
        return None
    try:
        nodes: list[dict[str, Any]] = json.loads(user_path(place).read_text(encoding="utf-8"))["items"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--nodes {place}: {error!r}. Write it by: kubectl get nodes -o json > {place}") from None
    return nodes


def submit(arguments: argparse.Namespace) -> int:
    """Render, check, and print or apply."""
    parsed = parse(["train", *arguments.train])
    if parsed.config is None:
        raise ConfigError("no config file: launchers/kubernetes.sh [options] CONFIG [section.field=value ...].")
    if parsed.workers is not None:
        raise ConfigError(
            f"--workers {parsed.workers} behind CONFIG: the pods are counted by --workers before CONFIG, and the ranks "
            "of each by --gpus."
        )
    load_config(parsed.config, parsed.overrides)
    path = user_path(parsed.config)
    name = arguments.name or re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")
    train = [one for one in arguments.train if one != parsed.config]
    run_dir = parsed.run_dir or f"/runs/{name}"
    if parsed.run_dir is not None:
        train = _without_run_dir(train)
    wanted = Wanted(arguments.kind, name, path, train, run_dir, arguments.workers, arguments.gpus, arguments.image)
    overlay = user_path(arguments.overlay) if arguments.overlay else REPOSITORY / "k8s/overlays" / arguments.kind
    made = render(wanted, read([overlay]))
    folders = [REPOSITORY / "k8s/crds", *map(user_path, arguments.crds)]
    in_namespace = ["--namespace", arguments.namespace] if arguments.namespace else []
    nodes = _read_nodes(arguments.nodes) if arguments.nodes or arguments.dry_run else _nodes_of_cluster()
    if findings := check_all(made, folders, VERSIONS, nodes):
        _say_findings(name, findings)
        raise ConfigError(f"{len(findings)} of the above: nothing is submitted.")
    text = yaml.dump_all(made.all, Dumper=_Dumper, sort_keys=False, width=120)
    if arguments.dry_run:
        sys.stdout.write(text)
        return 0
    _check_claims(made, in_namespace)
    done = subprocess.run([kubectl(), *in_namespace, "apply", "-f", "-"], input=text, text=True, stdout=sys.stderr)
    if done.returncode:
        raise ConfigError(
            f"kubectl has refused it, as it says above. A job that has run cannot be changed: kubectl delete "
            f"{arguments.kind} {name}, and the same command again goes on with its run."
        )
    say(f"{KINDS[arguments.kind]} {name} is submitted; its run: {run_dir} on the claim disttrain-runs")
    return 0


def _without_run_dir(words: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        if skip or word.startswith("--run-dir="):
            skip = False
        elif word == "--run-dir":
            skip = True
        else:
            kept.append(word)
    return kept


def _nodes_of_cluster() -> list[dict[str, Any]] | None:
    """None where this user may not ask."""
    done = subprocess.run([kubectl(), "get", "nodes", "-o", "json"], capture_output=True, text=True)
    if done.returncode:
        if "Forbidden" not in done.stderr:
            raise ConfigError(
                f"kubectl reaches no cluster: {' '.join(done.stderr.split())[:300]}. --dry-run needs none."
            )
        return None
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


def _check_claims(made: Manifests, in_namespace: Sequence[str]) -> None:
    """A pod whose claim is missing would wait for it for ever."""
    claims = {
        str(name)
        for pod in made.pods()
        for volume in pod.spec.get("volumes") or []
        if (name := at(volume, "persistentVolumeClaim", "claimName")) is not None
    }
    for claim in sorted(claims):
        command = [kubectl(), *in_namespace, "get", "persistentvolumeclaim", claim, "--output", "name"]
        done = subprocess.run(command, capture_output=True, text=True)
        if "NotFound" in done.stderr:
            raise ConfigError(
                f"the cluster has no claim {claim}. Make the volumes first: kubectl apply -k k8s/overlays/storage, "
                "with a storage class of yours."
            )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return int(text)


def _workers(text: str) -> int:
    if _count(text) == 0:
        raise argparse.ArgumentTypeError("0 pods train nothing: at least 1")
    return int(text)


def start(argv: Sequence[str]) -> int:
    """One command. Raises DisttrainError for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="kubernetes", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="look at overlays and manifest files")
    checking.add_argument("places", nargs="+", metavar="OVERLAY|FILE")
    checking.add_argument(
        "--versions", default=",".join(VERSIONS), help=f"of Kubernetes (default: {','.join(VERSIONS)})"
    )
    checking.set_defaults(run=check)
    submitting = commands.add_parser(
        "submit", prog="launchers/kubernetes.sh", help="render, check and apply a training"
    )
    submitting.add_argument("--kind", choices=sorted(KINDS), default="pytorchjob", help="default: pytorchjob")
    submitting.add_argument("--workers", type=_workers, metavar="N", help="pods (default: as the overlay has)")
    submitting.add_argument(
        "--gpus", type=_count, metavar="N", help="GPUs of a pod, each for one rank (0: one on the CPU)"
    )
    submitting.add_argument("--image", metavar="IMAGE")
    submitting.add_argument("--name", help="of the job (default: that of CONFIG); its run is /runs/NAME")
    submitting.add_argument("--namespace", help="default: that of kubectl")
    submitting.add_argument(
        "--overlay", metavar="DIR", help="your own, with a job of the kind (default: k8s/overlays/KIND)"
    )
    submitting.add_argument("--dry-run", action="store_true", help="print the manifests; needs no cluster")
    submitting.add_argument("train", nargs=argparse.REMAINDER, metavar="CONFIG ...", help="as for disttrain train")
    submitting.set_defaults(run=submit)
    for one in (checking, submitting):
        one.add_argument(
            "--crds", action="append", default=[], metavar="DIR", help="with more CustomResourceDefinitions"
        )
        one.add_argument("--nodes", metavar="FILE", help="kubectl get nodes -o json: whether any node is large enough")
    arguments = parser.parse_args(list(argv))
    if hasattr(arguments, "train"):
        arguments.train = arguments.train[arguments.train[:1] == ["--"] :]
    code: int = arguments.run(arguments)
    return code


def main() -> int:
    """The command line."""
    secure_streams()
    return exit_code_of(lambda: start(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
