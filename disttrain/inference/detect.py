"""`disttrain detect`: a model directory over whole scenes, on any number of ranks.

Every rank takes its share of each scene's tiles. Rank zero merges what all have seen, so that no box depends on how the
tiles were dealt out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.device import pick_device
from disttrain.data.decode import UnreadableImage
from disttrain.data.scene import Scene, open_scene
from disttrain.errors import ConfigError, DataError, unknown_name
from disttrain.files import write_bytes
from disttrain.inference.box_files import SceneBoxes, render_boxes
from disttrain.inference.box_picture import render_picture
from disttrain.inference.inputs import expand_scenes
from disttrain.inference.merge_boxes import Box, confirm_boxes, merge_hits
from disttrain.inference.output_file import check_not_input, open_output
from disttrain.inference.predictor import Predictor
from disttrain.inference.window_search import Hits, WindowSearch
from disttrain.launch.env import RankEnv
from disttrain.log import log
from disttrain.models.model_dir import ModelSpec, load_model_dir

_DEFAULT_CLASS = "plane"
_SAY_EVERY_S = 10.0


@dataclass(frozen=True)
class DetectRequest:
    """What a user asks `disttrain detect` for."""

    model_dir: Path
    scenes: Sequence[str]
    output: str | None = None
    """.json, .csv or .geojson; None: JSON on standard output."""
    picture: str | None = None
    """A .png or .jpg of the only scene with its boxes."""
    threshold: float = 0.5
    class_name: str | None = None
    device: str = "auto"
    allow_code: bool = False


@dataclass
class _Found:
    """What one rank has to say about one scene."""

    hits: list[Hits] = field(default_factory=list)
    scene: Scene | None = None
    error: str = ""

    def as_text(self) -> str:
        hits = Hits.joined(self.hits)
        return json.dumps({"error": self.error, "hits": [one.tolist() for one in (hits.top, hits.left, hits.logit)]})

    def add_text(self, text: str) -> None:
        values = json.loads(text)
        top, left, logit = values["hits"]
        self.hits.append(Hits(np.array(top, np.int64), np.array(left, np.int64), np.array(logit, np.float32)))
        self.error = self.error or values["error"]


def detect_scenes(request: DetectRequest, env: RankEnv, control_plane: ControlPlane) -> None:
    """Find the boxes of all scenes and write them, in the order of the scenes.

    Raises ConfigError or DataError before the first scene where the model cannot do it; DataError at the end where some
    scenes could not be read, once those of the others are written.
    """
    device = control_plane.run_on_all("device", lambda: pick_device(request.device, env))
    model, spec = control_plane.run_on_all("model", lambda: load_model_dir(request.model_dir, request.allow_code))
    predictor = control_plane.run_on_all("predictor", lambda: Predictor(model, spec, device))
    class_index = control_plane.run_on_all("class", lambda: class_index_of(spec, request.class_name))
    scenes = control_plane.run_on_all("scenes", lambda: _scenes_of(request))
    search = WindowSearch(predictor, class_index, request.threshold)
    pieces = {rank: control_plane.recv(rank) for rank in range(1, env.world_size)} if env.is_rank_zero else {}
    boxes, errors = [], []
    for path in scenes:
        began = time.monotonic()
        found = _look_at(search, path, env)
        if not env.is_rank_zero:
            control_plane.send_to_rank_zero(found.as_text())
            continue
        for of_rank in pieces.values():
            found.add_text(next(of_rank))
        merged = _merge(found, search)
        if found.scene is None or found.error:
            errors.append(f"{path} {found.error}.")
            continue
        log.info("%s: %d boxes of class %s in %.1f s", path, len(merged), spec.class_names[class_index],
                 time.monotonic() - began)  # fmt: skip
        boxes.append(SceneBoxes(path, merged, found.scene.georeference))
    control_plane.run_on_all("output", lambda: _write(request, boxes) if env.is_rank_zero and boxes else None)
    if message := control_plane.broadcast("unreadable", " ".join(errors)):
        raise DataError(message)


def _scenes_of(request: DetectRequest) -> list[str]:
    scenes = expand_scenes(request.scenes)
    if request.picture is not None and len(scenes) > 1:
        raise ConfigError(
            f"--image {request.picture} shows one scene, and {len(scenes)} are given: give them one by one."
        )
    check_not_input("--output", request.output, scenes)
    check_not_input("--image", request.picture, scenes)
    return scenes


def find_boxes(search: WindowSearch, scene: Scene, before_tile: Callable[[], None] = lambda: None) -> list[Box]:
    """The boxes of one scene, found by this process alone. Raises UnreadableImage, and what `before_tile` raises."""
    _check_size(search, scene)
    hits = []
    for tile in search.tiles(scene):
        before_tile()
        hits.append(search.search(scene, tile))
    return confirm_boxes(merge_hits(Hits.joined(hits), search.height, search.width), scene, search)


def class_index_of(spec: ModelSpec, name: str | None, option: str = "--class") -> int:
    """The number of the class to look for, `plane` for None. Raises ConfigError for a model that cannot be asked for
    it; `option`: by which it was named."""
    if spec.input_shape[0] not in (1, 3):
        raise ConfigError(
            f"this model takes images of shape {list(spec.input_shape)}, and scenes are read as 3 channels (RGB) or 1 "
            "(grey). Give windows of your arrays to it from Python instead."
        )
    if len(spec.class_names) < 2:
        raise ConfigError("this model has a single class, and tells nothing from anything. Train it with a second one.")
    if name is None and _DEFAULT_CLASS not in spec.class_names:
        raise ConfigError(
            f"this model has no class {_DEFAULT_CLASS!r}: name one by {option}, of {', '.join(spec.class_names)}."
        )
    if name is not None and name not in spec.class_names:
        raise ConfigError(f"{option}: {unknown_name('class', name, spec.class_names)}")
    return spec.class_names.index(name or _DEFAULT_CLASS)


def _look_at(search: WindowSearch, path: str, env: RankEnv) -> _Found:
    """This rank's share of a scene."""
    found = _Found()
    try:
        scene = open_scene(Path(path), search.predictor.spec.input_shape[0])
        found.scene = scene
        _check_size(search, scene)
        found.hits = list(_search_tiles(search, scene, path, env))
    except UnreadableImage as error:
        found.error = str(error)
    return found


def _check_size(search: WindowSearch, scene: Scene) -> None:
    if 0 in search.grid(scene):
        raise UnreadableImage(
            f"is {scene.width}x{scene.height} pixels, smaller than the {search.width}x{search.height} that the model "
            "looks at: give the whole scene, not chips of it, which are for disttrain predict"
        )


def _merge(found: _Found, search: WindowSearch) -> list[Box]:
    """The boxes of a scene; none, and the reason in `found.error`, where it cannot be read."""
    if found.scene is None or found.error:
        return []
    merged = merge_hits(Hits.joined(found.hits), search.height, search.width)
    try:
        return confirm_boxes(merged, found.scene, search)
    except UnreadableImage as error:
        found.error = str(error)
        return []


def _search_tiles(search: WindowSearch, scene: Scene, path: str, env: RankEnv) -> Iterator[Hits]:
    tiles = list(search.tiles(scene))[env.rank :: env.world_size]  # in turns: water is quicker than a town
    log.info("%s: %dx%d pixels", path, scene.width, scene.height)
    told = time.monotonic()
    for number, tile in enumerate(tiles):
        if time.monotonic() - told > _SAY_EVERY_S:
            told = time.monotonic()
            log.info("%s: %d %% looked at", path, 100 * number // len(tiles))
        # A copy, made once the tile's arrays are gone: what lies above them on the heap keeps it from shrinking.
        yield Hits.joined([search.search(scene, tile)])


def _write(request: DetectRequest, boxes: Sequence[SceneBoxes]) -> None:
    suffix = Path(request.output).suffix.lower() if request.output else ".json"
    text = render_boxes(boxes, suffix)
    with open_output(request.output) as file:
        file.write(text)
    if request.picture is None:
        return
    try:
        write_bytes(Path(request.picture), render_picture(boxes[0], Path(request.picture).suffix.lower()))
    except OSError as error:
        raise DataError(f"--image {request.picture} cannot be written: {error.strerror}.") from None
