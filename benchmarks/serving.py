"""`disttrain serve` beside FastAPI as a first program has it, and beside LitServe where that is installed.

python benchmarks/serving.py --model runs/planesnet/model

Loopback, one client for all, which shares the cores with the servers: 64 connections, then one; in turns.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np
from http_load import Load, multipart_request, run_load
from PIL import Image

from disttrain.data.datasets.synthetic import draw_arrays
from disttrain.inference.export import export_model
from disttrain.models.model_dir import load_model_dir

_BENCHMARKS = Path(__file__).parent
_CONNECTIONS = 64
_READY_S = 120.0


def commands(model: Path, with_onnx: Path | None) -> dict[str, tuple[list[str], str]]:
    """The servers by name: command without its port, and the path that tells whether it is ready."""
    python = sys.executable
    naive = [python, str(_BENCHMARKS / "naive_server.py"), str(model)]

    def serve(folder: Path) -> list[str]:
        return [python, "-m", "disttrain", "serve", str(folder), "--drain-s", "0", "--quiet"]

    servers = {
        "naive, in the event loop": ([*naive, "async"], "/openapi.json"),
        "naive, in threads": (naive, "/openapi.json"),
        "disttrain, 1 process": (serve(model), "/readyz"),
        "disttrain, 2 processes": ([*serve(model), "--processes", "2"], "/readyz"),
    }
    if with_onnx is not None:
        servers["disttrain, 1 process, ONNX"] = (serve(with_onnx), "/readyz")
    if importlib.util.find_spec("litserve"):
        servers["LitServe"] = ([python, str(_BENCHMARKS / "litserve_server.py"), str(model)], "/health")
    return servers


def exported(model: Path, scratch: Path) -> Path | None:
    """A copy of the model directory with its export; None where the packages for that are not installed."""
    if not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        return None
    copy = Path(shutil.copytree(model, scratch / "model"))
    export_model(copy)
    return copy


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: Sequence[str], ready: str) -> Iterator[tuple[int, float]]:
    """A server's port, and the seconds from its start until it was ready."""
    port = free_port()
    began = time.monotonic()
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while not _is_ready(port, ready):
            if process.poll() is not None or time.monotonic() - began > _READY_S:
                raise SystemExit(f"{' '.join(command)} did not become ready")
            time.sleep(0.02)
        yield port, time.monotonic() - began
    finally:
        process.terminate()
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # LitServe leaves processes behind


def _is_ready(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def requests_of(shape: tuple[int, ...], count: int = 64) -> list[bytes]:
    """Drawn chips, resized to what the model takes, each as one request."""
    _, height, width = shape
    requests = []
    for chip in draw_arrays(count, 3).images:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(chip.transpose(1, 2, 0))).resize((width, height)).save(file, "PNG")
        requests.append(multipart_request("/v1/predict", "images", file.getvalue()))
    return requests


def measure(arguments: Any, requests: list[bytes]) -> tuple[dict[str, dict[str, list[float]]], dict[str, float]]:
    """By server: requests/s and p99 (ms) at 64 connections, median (ms) of one; and seconds to ready."""
    model = Path(arguments.model)
    with contextlib.ExitStack() as stack:
        ports, ready_s = {}, {}
        with_onnx = exported(model, stack.enter_context(harness.scratch_folder()))
        for name, (command, ready) in commands(model, with_onnx).items():
            ports[name], ready_s[name] = stack.enter_context(running(command, ready))
        figures: dict[str, dict[str, list[float]]] = {name: {"rate": [], "p99": [], "single": []} for name in ports}

        def subject(name: str) -> float:
            many = _good(run_load(ports[name], requests, _CONNECTIONS, arguments.seconds), name)
            one = _good(run_load(ports[name], requests, 1, arguments.seconds / 2), name)
            for key, value in zip(
                ("rate", "p99", "single"),
                (many.requests_per_s, many.percentile_ms(99), one.percentile_ms(50)),
                strict=True,
            ):
                figures[name][key].append(value)
            return many.requests_per_s

        harness.alternate({name: (lambda name=name: subject(name)) for name in ports}, arguments.rounds)  # type: ignore[misc]
    for of_server in figures.values():
        for values in of_server.values():
            del values[0]  # the round that warms up
    return figures, ready_s


def _good(load: Load, name: str) -> Load:
    if load.failed:
        raise SystemExit(f"{name}: {load.failed} requests failed")
    return load


def main() -> None:
    """Measure, print, write."""
    parser = harness.argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="DIR", help="a model directory of images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    arguments = parser.parse_args()
    started = harness.describe_machine()
    spec = load_model_dir(Path(arguments.model))[1]
    figures, ready_s = measure(arguments, requests_of(spec.input_shape))
    best = max((name for name in figures if name.startswith("naive")), key=lambda one: np.median(figures[one]["rate"]))
    rows = []
    for name, of_server in figures.items():
        spreads = {key: harness.Spread.of(values) for key, values in of_server.items()}
        by_naive = {key: harness.ratios(of_server[key], figures[best][key]).render(".2f") for key in spreads}
        rows.append([
            name, spreads["rate"].render(".0f"), spreads["p99"].render(".0f"), spreads["single"].render(".1f"),
            by_naive["rate"], by_naive["p99"], by_naive["single"], f"{ready_s[name]:.1f}",
        ])  # fmt: skip
    header = ["server", "requests/s, 64 connections", "p99, ms", "median of one client, ms",
              f"requests/s beside '{best}'", "p99 beside it", "one client beside it", "ready after, s"]  # fmt: skip
    text = (
        f"One image of {list(spec.input_shape)} a request, {arguments.rounds} rounds of {arguments.seconds:g} s, the "
        f"client on the same {len(os.sched_getaffinity(0))} cores. Medians (least - greatest).\n\n"
    )
    config = {"model": spec.model, "weights_sha256": spec.weights_sha256, "connections": _CONNECTIONS}
    harness.report("serving", arguments, text + harness.render_table(header, rows), config,
                   {"figures": figures, "ready_s": ready_s}, started)  # fmt: skip


if __name__ == "__main__":
    main()
