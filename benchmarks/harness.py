"""What every benchmark shares: the data, ranks, alternation, and results that name the machine they were made on."""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
DOCS = REPOSITORY / "docs" / "benchmarks.md"

Measure = Callable[[], float]


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that all benchmarks take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--data",
        metavar="PATH",
        default=os.environ.get("DISTTRAIN_DATA"),
        help="the dataset itself, or a folder with mnist/ and planesnet/planesnet.zip; none: drawn data "
        "(environment variable DISTTRAIN_DATA)",
    )
    parser.add_argument("--output", metavar="FOLDER", default="build/benchmarks", help="where NAME.json is written")
    parser.add_argument(
        "--publish", action="store_true", help="also write benchmarks/results/NAME.json and docs/benchmarks.md"
    )
    return parser


# Data ---------------------------------------------------------------------------------------------------------------


def mnist_folder(data: str | None, scratch: Path) -> tuple[Path, str]:
    """A folder with MNIST's four IDX files, and what it is: real, or noise of the same size written to `scratch`."""
    if data:
        root = Path(data)
        return next((one for one in (root / "mnist", root) if one.is_dir()), root), "MNIST"
    folder = scratch / "mnist"
    folder.mkdir(parents=True)
    draw = np.random.RandomState(0)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        labels = draw.randint(0, 10, count).astype(np.uint8)
        images = draw.randint(0, 200, (count, 28, 28)).astype(np.uint8)
        images[np.arange(count), 2 * labels + 4] = 255  # the brightest row tells the class
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + values.tobytes(), compresslevel=1))
    return folder, "noise in MNIST's form (60,000 + 10,000)"


def planes_config(data: str | None) -> tuple[str, list[str], str]:
    """The config file for PlanesNet, the overrides that name the data, and what the data is."""
    if not data:
        return str(REPOSITORY / "configs/synthetic_planes.yaml"), [], "synthetic_planes (12,000 drawn chips)"
    root = Path(data)
    places = (root / "planesnet" / "planesnet.zip", root / "planesnet.zip", root / "planesnet", root)
    place = next((one for one in places if one.exists()), root)
    return str(REPOSITORY / "configs/planesnet.yaml"), [f"data.path={place}"], "PlanesNet"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone afterwards; caches of decoded data go there too, so that nothing of the user's is used."""
    folder = Path(tempfile.mkdtemp(prefix="disttrain-benchmark-"))
    try:
        with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(folder / "cache")):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Ranks --------------------------------------------------------------------------------------------------------------


def run_ranks(script: str, arguments: Sequence[str], result: Path, ranks: int = 2, python: str = sys.executable) -> str:
    """Run a Python file as so many ranks on this machine, the cores divided among them; what it writes to `result`.

    Raises where it writes nothing. How it exits does not matter: gloo's threads abort a process now and then that has
    done its work ("terminate called without an active exception", torch 2.15).
    """
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    environ = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(REPOSITORY)}
    launcher = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*launcher, str(script), *arguments]
    result.unlink(missing_ok=True)
    done = subprocess.run(command, env=environ, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if not result.exists():
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-6000:]}"
        )
    return result.read_text()


def train_with(
    loop: Callable[..., None], config: Any, run_dir: Path, dataset: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """A real `run_training` on this rank, in which `loop(parts, position, total_steps, hooks)` stands for `train`.

    So a benchmark times the real parts and hooks, however these are put together.
    """
    from disttrain.comm.rank_session import rank_session
    from disttrain.launch.env import NodeEnv, RankEnv, resolve
    from disttrain.training.prepare import Request
    from disttrain.training.run import run_training

    env = resolve(os.environ) or RankEnv.alone()
    assert not isinstance(env, NodeEnv)
    request = Request(config, run_dir, resume="never", quiet=True, dataset=dataset)

    def whole(parts: Any, position: Any, total_steps: int, hooks: Any) -> None:
        loop(parts, position, total_steps, hooks)
        position.step = total_steps  # else the run takes it that it was asked to stop

    with mock.patch("disttrain.training.run.train", whole), rank_session(env, 60.0, quiet=True) as session:
        return run_training(request, session)


# Measuring ----------------------------------------------------------------------------------------------------------


def alternate(subjects: Mapping[str, Measure], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Each subject's measurements, one a round: A B, B A, A B, ..., after rounds that are not counted."""
    measured: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(-warm_up, rounds):
        for name in list(subjects) if number % 2 == 0 else reversed(list(subjects)):
            value = subjects[name]()
            if number >= 0:
                measured[name].append(value)
    return measured


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    mean: float
    min: float
    max: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), statistics.fmean(values), min(values), max(values), len(values))

    def render(self, form: str = ".3f") -> str:
        """`median (min - max)`."""
        return f"{self.median:{form}} ({self.min:{form}} - {self.max:{form}})"


def ratios(values: Sequence[float], reference: Sequence[float]) -> Spread:
    """Of the measurements of the same rounds."""
    return Spread.of([one / other for one, other in zip(values, reference, strict=True)])


# Results ------------------------------------------------------------------------------------------------------------


def describe_machine() -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    cpu = next((line.split(":", 1)[1] for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu.strip() or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": memory // 1024,
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "git_commit": _git_commit(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _git_commit() -> str | None:
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned for reading as plain text."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def report(
    name: str, arguments: argparse.Namespace, text: str, config: Any, measured: Any, started: Mapping[str, Any]
) -> None:
    """Print the text; write `NAME.json`; with `--publish` also the committed copy and the section of the docs.

    `started` is `describe_machine()` from before the first measurement: the load then is the load of others.
    """
    load = f"load average {started['load_average'][0]:.1f} before, {os.getloadavg()[0]:.1f} after"
    where = ", ".join(started["gpus"]) or f"{started['cores']} cores of {started['cpu']}"
    place = f"{where}; torch {started['torch']}, Python {started['python']}; {load}; {started['date'][:16]}Z"
    print(f"{text}\n\n{place}")
    result = {"benchmark": name, "machine": dict(started), "config": config, "measured": measured}
    folders = [Path(arguments.output), *([RESULTS] if arguments.publish else [])]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1, default=asdict) + "\n")
    if arguments.publish:
        write_section(DOCS, name, f"{text}\n\nMeasured on {place}.")


def write_section(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of `name`, or add it at the end with its markers."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    section = f"{begin}\n{text}\n{end}"
    if begin in page and end in page:
        page = page[: page.index(begin)] + section + page[page.index(end) + len(end) :]
    else:
        page = f"{page.rstrip()}\n\n{section}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
