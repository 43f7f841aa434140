"""`disttrain detect`'s search beside the exhaustive pass: every window of the grid, with the same merging.

python benchmarks/detect.py --model runs/planesnet/model --scenes scene_1.png scene_2.png
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import harness
import torch
from torchvision.ops import box_iou

from disttrain.data.scene import Scene, open_scene
from disttrain.inference.merge_boxes import Box, confirm_boxes, merge_hits
from disttrain.inference.predictor import Predictor
from disttrain.inference.window_search import Hits, Tile, WindowSearch
from disttrain.models.model_dir import load_model_dir

_BATCH_SIZE = 256


def find_all(search: WindowSearch, scene: Scene) -> list[Box]:
    """By the search of `disttrain detect`."""
    return merge(search, scene, [search.search(scene, tile) for tile in search.tiles(scene)])


def classify_all(search: WindowSearch, scene: Scene) -> list[Box]:
    """By the network's answer for every window, in batches of views of the picture."""
    pixels = torch.from_numpy(scene.read(0, 0, scene.height, scene.width).copy())
    windows = pixels.unfold(1, search.height, search.step).unfold(2, search.width, search.step)
    rows, columns = windows.shape[1:3]
    logits = torch.empty(rows * columns)
    for at in range(0, len(logits), _BATCH_SIZE):
        places = torch.arange(at, min(at + _BATCH_SIZE, len(logits)))
        images = windows[:, places // columns, places % columns].transpose(0, 1)
        logits[places] = search.logits(search.predictor.scores(images))
    return merge(search, scene, [search.hits(logits.view(rows, columns), Tile(0, rows, 0, columns))])


def merge(search: WindowSearch, scene: Scene, hits: list[Hits]) -> list[Box]:
    return confirm_boxes(merge_hits(Hits.joined(hits), search.height, search.width), scene, search)


def corners(boxes: list[Box]) -> torch.Tensor:
    return torch.tensor([[one.x, one.y, one.x + one.width, one.y + one.height] for one in boxes]).view(-1, 4).float()


def compare(search: WindowSearch, path: Path, rounds: int) -> dict[str, Any]:
    """Boxes and seconds of both, and how many boxes each has that the other lacks (IoU 0.5)."""
    scene = open_scene(path, search.predictor.spec.input_shape[0])
    found: dict[str, list[Box]] = {}

    def by(name: str, work: Any) -> float:
        return harness.timed(lambda: found.__setitem__(name, work(search, scene)))

    by("search", find_all)  # warm-up
    measured = harness.alternate(
        {"search": lambda: by("search", find_all), "exhaustive": lambda: by("exhaustive", classify_all)}, rounds, 0
    )
    overlaps = box_iou(corners(found["exhaustive"]), corners(found["search"]))
    return {
        "scene": path.name,
        "pixels": [scene.width, scene.height],
        "seconds": measured,
        "boxes": {name: len(boxes) for name, boxes in found.items()},
        "missed": int((overlaps.amax(1) < 0.5).sum()),
        "added": int((overlaps.amax(0) < 0.5).sum()),
    }


def main() -> None:
    parser = harness.argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="DIR", help="a model directory of PlanesNet")
    parser.add_argument("--scenes", nargs="+", required=True, metavar="SCENE")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    started = harness.describe_machine()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model, spec = load_model_dir(Path(arguments.model))
    search = WindowSearch(Predictor(model, spec, torch.device("cpu")), spec.class_names.index("plane"), 0.5)
    results = [compare(search, Path(scene), arguments.rounds) for scene in arguments.scenes]
    rows = []
    for one in results:
        seconds = {name: harness.Spread.of(values) for name, values in one["seconds"].items()}
        times = harness.ratios(one["seconds"]["exhaustive"], one["seconds"]["search"])
        boxes = one["boxes"]
        size = "{}x{}".format(*one["pixels"])
        rows.append([one["scene"], size, *(seconds[name].render(".1f") for name in ("exhaustive", "search")),
                     times.render(".1f"), str(boxes["exhaustive"]), str(boxes["search"]), str(one["missed"]),
                     str(one["added"])])  # fmt: skip
    header = ["scene", "pixels", "every window, s", "search, s", "times as fast", "boxes of every window",
              "boxes of the search", "missed", "added"]  # fmt: skip
    text = (
        "The search of `disttrain detect` beside the network's answer for every window at every second pixel, in one "
        f"process on all cores, merged alike, threshold 0.5; {arguments.rounds} round(s).\n\n"
    )
    config = {"model": spec.model, "weights_sha256": spec.weights_sha256}
    harness.report("detect", arguments, text + harness.render_table(header, rows), config, results, started)


if __name__ == "__main__":
    main()
