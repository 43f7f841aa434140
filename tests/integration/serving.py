"""A real server process for tests, and what they send to it."""

from __future__ import annotations

import contextlib
import io
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from disttrain.data.datasets.synthetic import draw_arrays
from disttrain.inference.predictor import Predictor
from disttrain.models.golden import Golden, load_golden
from disttrain.models.model_dir import load_model_dir, save_model_dir

from .commands import DISTTRAIN, Outcome, finish, start

_READY_S = 120.0


class Server:
    """`disttrain serve` on a port of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.client = httpx.Client(base_url=url, timeout=_READY_S)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> Outcome:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> Outcome:
        self.client.close()
        return finish(self.process)


@contextlib.contextmanager
def serving(
    model_dir: Path | str, *options: str, folder: Path | None = None, env: dict[str, str] | None = None
) -> Iterator[Server]:
    """A server that is ready; it has ended afterwards, also where the test has failed."""
    command = [*DISTTRAIN, "serve", str(model_dir), "--port", "0", "--drain-s", "0", "--watch-s", "0.05", *options]
    process = start(command, folder or Path(model_dir).parent, env)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("ready: "):
        raise AssertionError(f"the server did not start: {finish(process)}")
    server = Server(process, line.removeprefix("ready: ").strip())
    try:
        yield server
    finally:
        if process.poll() is None:
            server.stop()


class Clients:
    """Threads that ask without a pause, and keep what was wrong and which versions have answered."""

    def __init__(self, url: str, expected: dict[str, Any], count: int = 4) -> None:
        self.failures: list[str] = []
        self.answers: list[str] = []
        self._url, self._expected = url, expected
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        images = chips(2)
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post("/v1/predict", files=form(images))
                    content = answer.json()
                    version = content["model"]["version"]
                    if content["predictions"] != self._expected.setdefault(version, content["predictions"]):
                        self.failures.append(f"{version} answers {content['predictions']}")
                    if answer.status_code != 200:
                        self.failures.append(answer.text)
                    self.answers.append(version)
                except Exception as error:
                    self.failures.append(repr(error))

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def chips(count: int, seed: int = 5) -> list[bytes]:
    """Drawn chips as PNG."""
    return [picture(image) for image in draw_arrays(count, seed).images]


def picture(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """uint8 [channels, height, width] as a file."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, kind, **options)
    return file.getvalue()


def form(images: Sequence[bytes], field: str = "images") -> list[tuple[str, tuple[str, bytes, str]]]:
    """`files` of httpx."""
    return [(field, (f"{number}.png", data, "image/png")) for number, data in enumerate(images)]


def until(condition: Callable[[], Any], what: str, limit_s: float = 60.0) -> Any:
    """The first value of a condition that is true."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"within {limit_s:g} s it was not true that {what}")


def send_slowly(port: int, head: bytes) -> socket.socket:
    """A connection on which the beginning of a request has been sent, and no more."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=_READY_S)
    connection.sendall(head)
    return connection


def other_model(model_dir: Path, folder: Path, honest: bool = True) -> Path:
    """Other weights; `honest`: with golden requests of their own, else with those of the first."""
    model, spec = load_model_dir(model_dir)
    golden = load_golden(model_dir, spec.input_shape, len(spec.class_names))
    assert golden is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    if honest:
        golden = Golden(golden.images, Predictor(model, spec, torch.device("cpu")).probabilities(golden.images))
    save_model_dir(folder, model, spec, golden)
    return folder
