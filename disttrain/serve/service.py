"""What the routes call: images in, answers out, off the event loop, within the limits."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from disttrain.data.decode import UnreadableImage, decode_image, decode_whole
from disttrain.data.scene import MemoryScene
from disttrain.errors import ConfigError
from disttrain.inference.detect import class_index_of, find_boxes
from disttrain.inference.predictor import NOT_FINITE, label_of
from disttrain.inference.window_search import WindowSearch
from disttrain.serve.batching import Batcher, QueueFull
from disttrain.serve.live_model import LiveModel, LoadedModel, ModelWatcher
from disttrain.serve.metrics import Metrics
from disttrain.serve.requests import ByteBudget, NamedFile, Refused, busy, parse_files
from disttrain.serve.settings import ServeSettings

_MOST_DECODERS = 4
_SCENES_WAITING = 4


@dataclass
class _Decoded:
    """The images of a request: pixels, or why there are none."""

    names: list[str]
    images: list[np.ndarray | str]

    def good(self) -> list[np.ndarray]:
        return [one for one in self.images if not isinstance(one, str)]


class Service:
    """One process's model, queues and threads."""

    def __init__(self, settings: ServeSettings, device: torch.device, scene_threads: int) -> None:
        """`scene_threads`: that a scene is searched by on the CPU. Raises what the model directory is refused for.

        Batches are computed by one: the event loop, the decoders and the clients' own work want the other cores.
        """
        torch.set_num_threads(1)
        self.settings, self.metrics = settings, Metrics()
        self.draining = False
        self.budget = ByteBudget(settings.limits.waiting_bytes)
        self.live = LiveModel(settings.model_dir, device, settings.allow_code, self._model_changed)
        self.batcher: Batcher[LoadedModel] = Batcher(
            LoadedModel.probabilities,
            settings.max_batch_size,
            settings.max_wait_ms / 1000,
            settings.limits.queue_images,
            self.metrics.batches.observe,
        )
        self._decoders = ThreadPoolExecutor(min(_MOST_DECODERS, os.cpu_count() or 1), "decode")
        # The number is a thread's own, once it has computed something: the model's thread has before this one begins.
        blank = np.zeros((1, *self.live.current.spec.input_shape), np.uint8)
        self.batcher.submit(self.live.current, blank).result()
        self._scene_thread = ThreadPoolExecutor(1, "scene", torch.set_num_threads, (scene_threads,))
        self._scenes = threading.BoundedSemaphore(_SCENES_WAITING)
        self.watcher = ModelWatcher(self.live, settings.watch_s, self._model_looked_at)

    def close(self) -> None:
        """End the threads, once nothing is asked of them any more."""
        self.watcher.close()
        self._decoders.shutdown(wait=True)
        self._scene_thread.shutdown(wait=False, cancel_futures=True)
        self.batcher.close()

    def _model_changed(self, old: LoadedModel | None, new: LoadedModel) -> None:
        serving = self.metrics.serving
        if old is not None:
            serving.labels(old.version, old.spec.weights_sha256).set(0)
            self.metrics.switches.inc()
        serving.labels(new.version, new.spec.weights_sha256).set(1)

    def _model_looked_at(self) -> None:
        self.metrics.refused.set(self.live.refused is not None)

    async def predict(self, body: bytes, content_type: str) -> tuple[int, dict[str, Any]]:
        """Status and content of an answer. Raises Refused."""
        model = self.live.current
        self.batcher.announce()
        work = self._decoders.submit(self._decode_and_queue, model, body, content_type)
        work.add_done_callback(lambda _: self.batcher.arrived())  # cancelled before it began, too
        decoded, computed = await asyncio.wrap_future(work)
        probabilities: Iterator[np.ndarray] = iter(())
        if computed is not None:
            results = await asyncio.wrap_future(computed)
            probabilities = iter(results)
        predictions = [
            _prediction(name, one if isinstance(one, str) else next(probabilities), model)
            for name, one in zip(decoded.names, decoded.images, strict=True)
        ]
        bad = sum(isinstance(one, str) for one in decoded.images)
        self._count(len(predictions) - bad, bad)
        answer: dict[str, Any] = {"model": model.identity, "predictions": predictions}
        if bad:
            answer["detail"] = f"{bad} of {len(predictions)} images could not be read: see the error of each."
        return (422 if bad else 200), answer

    def _decode_and_queue(
        self, model: LoadedModel, body: bytes, content_type: str
    ) -> tuple[_Decoded, Future[np.ndarray] | None]:
        """In a decoder's thread. Raises Refused."""
        files = parse_files(body, content_type, self.settings.limits.images)
        try:
            self.batcher.admit(len(files))
        except QueueFull as error:
            raise busy(f"The queue is full: {error}") from None
        self.metrics.waiting.inc(len(files))
        computed: Future[np.ndarray] | None = None
        try:
            decoded = _Decoded([file.name for file in files], [self._decode(file, model) for file in files])
            if good := decoded.good():
                computed = self.batcher.submit(model, np.stack(good))
                computed.add_done_callback(lambda _: self._release(len(files)))
        finally:
            if computed is None:
                self._release(len(files))
        return decoded, computed

    def _release(self, images: int) -> None:
        self.batcher.release(images)
        self.metrics.waiting.dec(images)

    def _decode(self, file: NamedFile, model: LoadedModel) -> np.ndarray | str:
        channels, height, width = model.spec.input_shape
        try:
            return decode_image(file.data, (channels, height, width), model.spec.resize, self.settings.limits.pixels)
        except UnreadableImage as error:
            return str(error)

    def _count(self, good: int, bad: int) -> None:
        if good:
            self.metrics.images.labels("classified").inc(good)
        if bad:
            self.metrics.images.labels("unreadable").inc(bad)

    async def detect(
        self, body: bytes, content_type: str, threshold: float, class_name: str | None, gone: threading.Event
    ) -> tuple[int, dict[str, Any]]:
        """Status and content of an answer; the search ends between two tiles once `gone` is set. Raises Refused."""
        model = self.live.current
        try:
            class_index = class_index_of(model.spec, class_name, "class_name")
        except ConfigError as error:
            raise Refused(422, str(error)) from None
        if not self._scenes.acquire(blocking=False):
            raise busy(f"{_SCENES_WAITING} scenes wait already.")
        work = self._scene_thread.submit(self._find, model, body, content_type, threshold, class_index, gone)
        work.add_done_callback(lambda _: self._scenes.release())
        return await asyncio.wrap_future(work)

    def _find(
        self,
        model: LoadedModel,
        body: bytes,
        content_type: str,
        threshold: float,
        class_index: int,
        gone: threading.Event,
    ) -> tuple[int, dict[str, Any]]:
        """In the scenes' thread."""
        files = parse_files(body, content_type, self.settings.limits.images)
        if len(files) != 1:
            raise Refused(422, f"The request has {len(files)} scenes: send one by one.")
        until = time.monotonic() + self.settings.limits.request_s

        def stop_if_gone() -> None:
            if gone.is_set() or time.monotonic() > until:
                raise Refused(504, "The search was given up.")

        answer: dict[str, Any] = {
            "model": model.identity, "name": files[0].name, "class": model.spec.class_names[class_index],
            "threshold": threshold,
        }  # fmt: skip
        try:
            stop_if_gone()
            scene = MemoryScene(decode_whole(files[0].data, model.spec.input_shape[0], self.settings.limits.pixels))
            boxes = find_boxes(WindowSearch(model.finder, class_index, threshold), scene, stop_if_gone)
        except UnreadableImage as error:
            self._count(0, 1)
            return 422, {**answer, "detail": f"The scene cannot be read: {error}.", "error": str(error)}
        except ConfigError as error:
            raise Refused(501, f"This server finds no boxes: {error}") from None
        self.metrics.images.labels("searched").inc()
        return 200, {**answer, "width": scene.width, "height": scene.height, "boxes": [asdict(box) for box in boxes]}

    @property
    def works(self) -> bool:
        """Whether images are still computed."""
        return self.batcher.is_alive

    def describe(self) -> dict[str, Any]:
        """The content of `/v1/model`."""
        model = self.live.current
        channels, height, width = model.spec.input_shape
        golden = model.golden
        return {
            **model.identity,
            "classes": list(model.spec.class_names),
            "input": {"channels": channels, "height": height, "width": width, "resized": model.spec.resize},
            "metrics": model.metrics,
            "loaded": model.loaded,
            "runtime": model.runtime,
            "golden": {"checked": len(golden.images) if golden else 0, "largest_difference": model.difference},
            "refused": self.live.refused,
            "limits": {
                key: value
                for key, value in asdict(self.settings.limits).items()
                if key in ("upload_bytes", "images", "pixels", "request_s")
            },
        }


def _prediction(name: str, one: np.ndarray | str, model: LoadedModel) -> dict[str, Any]:
    if isinstance(one, str):
        return {"name": name, "error": one}
    if not np.isfinite(one).all():
        return {"name": name, "error": NOT_FINITE}
    label, probability, by_class = label_of(one, model.spec.class_names)
    return {"name": name, "label": label, "probability": probability, "probabilities": by_class}
