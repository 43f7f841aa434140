"""disttrain beside Lightning Fabric, Lightning Trainer, Accelerate and plain DDP: samples a second, in turns.

The first run makes benchmarks/.venv-peers, which sees the packages of the interpreter that runs this script (torch is
not installed again), and installs lightning and accelerate there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import (
    REPOSITORY,
    Spread,
    alternate,
    argument_parser,
    describe_machine,
    mnist_folder,
    ratios,
    render_table,
    report,
    run_ranks,
    scratch_folder,
)

ENVIRONMENT = REPOSITORY / "benchmarks" / ".venv-peers"
LOOPS = REPOSITORY / "benchmarks" / "peer_loops.py"
PEERS = ("disttrain", "plain DDP", "Lightning Fabric", "Lightning Trainer", "Accelerate")
LIBRARIES = ("lightning", "accelerate")


def main() -> None:
    """Choose each one's number of loader processes, then take turns."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each that are counted")
    parser.add_argument("--samples", type=int, default=30_000, help="training samples in an epoch")
    parser.add_argument("--epochs", type=int, default=2, help="epochs that are timed, after one that is not")
    parser.add_argument("--micro-batch-size", type=int, default=64, help="samples a rank and step")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS, metavar="NAME", help="which ones")
    arguments = parser.parse_args()
    python = peer_python()
    machine = describe_machine()
    with scratch_folder() as scratch:
        data, what = mnist_folder(arguments.data, scratch)

        def trainer(peer: str, loader_workers: int, samples: int, epochs: int) -> Callable[[], float]:
            output = scratch / "measured.json"
            options = {"data": data, "samples": samples, "epochs": epochs + 1, "loader-workers": loader_workers}
            options |= {"micro-batch-size": arguments.micro_batch_size, "output": output}

            def measure() -> float:
                command = [peer, *(f"--{name}={value}" for name, value in options.items())]
                speed: float = json.loads(run_ranks(str(LOOPS), command, output, 2, python))["samples_per_second"]
                print(f"{peer}, {loader_workers} loader processes: {speed:,.0f} samples/s", file=sys.stderr)
                return speed

            return measure

        peers = list(dict.fromkeys(["disttrain", *arguments.peers]))
        loader_workers = {"disttrain": 0}
        for peer in peers[1:]:
            tried = {count: trainer(peer, count, arguments.samples // 3, 1)() for count in (0, 2)}
            loader_workers[peer] = max(tried, key=lambda count: tried[count])
        subjects = {peer: trainer(peer, loader_workers[peer], arguments.samples, arguments.epochs) for peer in peers}
        speeds = alternate(subjects, arguments.rounds, warm_up=0)
    summarise(arguments, speeds, loader_workers, library_versions(python), what, machine)


def summarise(
    arguments: argparse.Namespace,
    speeds: dict[str, list[float]],
    loader_workers: dict[str, int],
    versions: dict[str, str],
    what: str,
    machine: dict[str, Any],
) -> None:
    """The table: samples a second, and disttrain's speed over each one's in the same round."""
    ratio = {peer: ratios(speeds["disttrain"], measured) for peer, measured in speeds.items()}
    rows = [
        [
            peer,
            "in memory" if peer == "disttrain" else f"DataLoader, {loader_workers[peer]} processes a rank",
            Spread.of(measured).render(",.0f"),
            "1" if peer == "disttrain" else ratio[peer].render(".2f"),
        ]
        for peer, measured in speeds.items()
    ]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    text = (
        f"MNIST CNN on {what}: {arguments.samples:,} samples an epoch, 2 gloo ranks, {arguments.micro_batch_size} "
        f"samples a rank and step, fp32, AdamW, no augmentation; {arguments.rounds} trainings of each, in turns, "
        f"{arguments.epochs} timed epochs in each. Medians (least - greatest). {named}.\n\n"
        + render_table(["library", "data", "samples/s over both ranks", "disttrain's speed / its speed"], rows)
    )
    measured_all = {"samples_per_second": speeds, "ratio": ratio, "loader_workers": loader_workers}
    config = {**vars(arguments), "data": what, "versions": versions}
    report("peers", arguments, text, config, measured_all, machine)


def peer_python() -> str:
    """The interpreter of the environment with the other libraries, which is made where it is not there yet."""
    python = ENVIRONMENT / "bin" / "python"
    ready = ENVIRONMENT / "ready"
    if ready.exists() and ready.read_text() == sys.prefix:
        return str(python)
    print(f"making {ENVIRONMENT.relative_to(REPOSITORY)} with {', '.join(LIBRARIES)}", file=sys.stderr)
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = subprocess.run([python, "-c", query], capture_output=True, text=True, check=True).stdout.strip()
    (Path(folder) / "outer.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    subprocess.run([python, "-m", "pip", "install", "--quiet", *LIBRARIES], check=True)
    ready.write_text(sys.prefix)
    return str(python)


def library_versions(python: str) -> dict[str, str]:
    """What is compared with, by name."""
    query = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {LIBRARIES}}}))"
    done = subprocess.run([python, "-c", query], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


if __name__ == "__main__":
    main()
