"""The model that a server answers with, and the one that takes its place."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from disttrain.errors import DataError, DisttrainError
from disttrain.files import file_identity
from disttrain.inference.onnx_predictor import ONNX, OnnxPredictor, has_onnxruntime
from disttrain.inference.predict_files import check_channels
from disttrain.inference.predictor import Predictor
from disttrain.log import log
from disttrain.models.golden import GOLDEN, Golden, load_golden
from disttrain.models.model_dir import DESCRIPTION, METRICS, WEIGHTS, ModelSpec, find_model_dir, load_model_dir

_VERSION_DIGITS = 12


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, checked."""

    spec: ModelSpec
    version: str
    """The first digits of the sha256 of its description, which has the hash of its weights."""
    predictor: Predictor | OnnxPredictor
    finder: Predictor
    """The same network for scenes, whose search lays its weights out in another way."""
    golden: Golden | None
    difference: float | None
    """The largest to the golden outputs."""
    metrics: dict[str, Any]
    loaded: str
    """When, as ISO 8601."""

    @property
    def identity(self) -> dict[str, str]:
        """What every answer carries."""
        return {"name": self.spec.model, "version": self.version, "weights_sha256": self.spec.weights_sha256}

    @property
    def runtime(self) -> str:
        """What computes the answers about images: `torch` or `onnxruntime`."""
        return "torch" if isinstance(self.predictor, Predictor) else "onnxruntime"

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, channels, height, width] -> float32 [n, classes]."""
        return self.predictor.probabilities(images)


class ModelChanging(DisttrainError):
    """The directory was written while it was read: look again later."""


def load_model(path: Path, device: torch.device, allow_code: bool) -> LoadedModel:
    """A model directory, its golden requests replayed where it has them.

    Raises ConfigError, DataError or IntegrityError for one that cannot be served, ModelChanging.
    """
    folder = find_model_dir(path).resolve()  # behind a link that moves: all files from one side
    before = _identity(folder)
    try:
        loaded = _load(folder, device, allow_code)
    except (DisttrainError, OSError):
        if _identity(folder) != before:
            raise ModelChanging("the model directory is being written") from None
        raise
    if _identity(folder) != before:
        raise ModelChanging("the model directory is being written")
    return loaded


def _load(folder: Path, device: torch.device, allow_code: bool) -> LoadedModel:
    model, spec = load_model_dir(folder, allow_code)
    finder = Predictor(model, spec, device)  # raises for inputs that are no images
    check_channels(spec)
    predictor = _exported(folder, spec, device) or Predictor(copy.deepcopy(model), spec, device)
    golden = load_golden(folder, spec.input_shape, len(spec.class_names))
    images = golden.images if golden else np.zeros((1, *spec.input_shape), np.uint8)
    probabilities = predictor.probabilities(images)  # also what is slow the first time
    if not np.isfinite(probabilities).all():
        raise DataError("the model answers with numbers that are not finite. Train it again.")
    description = (folder / DESCRIPTION).read_bytes()
    return LoadedModel(
        spec,
        hashlib.sha256(description).hexdigest()[:_VERSION_DIGITS],
        predictor,
        finder,
        golden,
        golden.check(probabilities) if golden else None,
        _read_metrics(folder / METRICS),
        _now(),
    )


def _exported(folder: Path, spec: ModelSpec, device: torch.device) -> OnnxPredictor | None:
    """The model as ONNX, faster on a CPU, where `disttrain export` has written it into the directory and onnxruntime is
    installed. Raises DataError for that of other weights, and what `OnnxPredictor` raises."""
    path = folder / ONNX
    if device.type != "cpu" or not path.exists():
        return None
    if not has_onnxruntime():
        log.info("%s is not used, since onnxruntime is not installed: pip install 'disttrain[export]'", path)
        return None
    exported = OnnxPredictor(path, device.type)
    if exported.spec.weights_sha256 != spec.weights_sha256:
        raise DataError(
            f"{path} has other weights than the model directory: {exported.spec.weights_sha256[:12]}..., not "
            f"{spec.weights_sha256[:12]}.... Run disttrain export on the directory again, or delete the file."
        )
    return exported


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise DataError(f"{path} is not JSON. Copy the model directory again.") from None
    return content if isinstance(content, dict) else {}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _identity(folder: Path) -> tuple[str, ...] | None:
    """Of the files that make a model; None where one is missing."""
    try:
        needed = [file_identity(folder / name) for name in (DESCRIPTION, WEIGHTS)]
        others = [file_identity(folder / name) for name in (GOLDEN, METRICS, ONNX) if (folder / name).exists()]
    except OSError:
        return None
    return (*needed, *others)


class LiveModel:
    """The model of a process, exchanged in one assignment: a request has the old one or the new one."""

    def __init__(
        self,
        path: Path,
        device: torch.device,
        allow_code: bool,
        on_change: Callable[[LoadedModel | None, LoadedModel], None] = lambda old, new: None,
    ) -> None:
        """Loads the first one. Raises what `load_model` raises. `on_change` is told the old one and the new one."""
        self._path, self._device, self._allow_code, self._on_change = path, device, allow_code, on_change
        self._seen = self._look()
        self._settling: tuple[str, ...] | None = None
        self.refused: dict[str, str] | None = None
        """When and why the model that is in the directory now was not taken."""
        self.current = load_model(path, device, allow_code)
        self._on_change(None, self.current)
        _say_loaded("serving", self.current)

    def poll(self) -> None:
        """Take the model that lies in the directory now, if it is another one and answers as it should.

        A directory counts once two looks, one after the other, have seen the same files in it.
        """
        now = self._look()
        if now == self._seen:
            self._settling = None
            return
        if now is None or now != self._settling:
            self._settling = now
            return
        try:
            new = load_model(self._path, self._device, self._allow_code)
        except ModelChanging:
            self._settling = None
            return
        except Exception as error:  # of the network's code too: the model that is there goes on
            self._refuse(error)
        else:
            self._take(new)
        self._seen, self._settling = now, None

    def _look(self) -> tuple[str, ...] | None:
        try:
            return _identity(find_model_dir(self._path).resolve())
        except (DisttrainError, OSError):
            return None

    def _take(self, new: LoadedModel) -> None:
        self.refused = None
        old = self.current
        if (new.version, new.runtime) == (old.version, old.runtime):
            return
        self.current = new
        self._on_change(old, new)
        _say_loaded(f"version {old.version} is replaced by", new)

    def _refuse(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        log.warning("the model in %s is not taken, and version %s stays: %s", self._path, self.current.version, reason)
        self.refused = {"time": _now(), "reason": self._without_paths(reason)}

    def _without_paths(self, text: str) -> str:
        """Clients are told no path of this machine."""
        for path in sorted({str(self._path.resolve()), str(self._path.absolute()), str(self._path)}, key=len)[::-1]:
            text = text.replace(path, "MODEL_DIR") if path not in ("", ".", "/") else text
        return text


def _say_loaded(verb: str, model: LoadedModel) -> None:
    if model.golden is None:
        log.warning(
            "%s version %s (%s), unchecked: the directory has no golden requests (%s), as training writes them",
            verb, model.version, model.runtime, GOLDEN,
        )  # fmt: skip
        return
    checked = len(model.golden.images)
    log.info("%s version %s (%s), checked by %d golden requests", verb, model.version, model.runtime, checked)


class ModelWatcher:
    """Polls a live model from a thread of its own."""

    def __init__(self, live: LiveModel, every_s: float, after: Callable[[], None] = lambda: None) -> None:
        """`after` is called after every look."""
        self._live, self._every_s, self._after = live, every_s, after
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model watcher", daemon=True)
        if every_s > 0:
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._live.poll()
                self._after()
            except Exception:
                log.exception("the model directory could not be looked at")

    def close(self) -> None:
        """End the thread; a model that is being loaded is not waited for."""
        self._stop.set()
