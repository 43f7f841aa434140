"""The search finds what all windows would show, whatever the tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from disttrain.data.scene import WholeScene
from disttrain.errors import DataError
from disttrain.inference.predictor import Predictor
from disttrain.inference.window_search import Hits, WindowSearch
from disttrain.models.model_dir import ModelSpec
from disttrain.models.planesnet import PlanesNetCnn

PLACES = [(10, 20), (31, 90), (60, 50), (61, 150), (100, 100)]


class BrightMiddle(nn.Module):
    """Sees a bright middle on dark ground, within a pixel or two."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        middle = images[:, :, 8:12, 8:12].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(middle), 40 * (middle - 0.7)], 1)


@pytest.fixture
def scene(tmp_path: Path) -> WholeScene:
    """Noise with bright squares of 6 pixels around the middle of the windows at PLACES."""
    pixels = np.random.RandomState(0).randint(20, 60, (141, 203, 3)).astype(np.uint8)
    for top, left in PLACES:
        pixels[top + 7 : top + 13, left + 7 : left + 13] = 250
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return WholeScene(tmp_path / "scene.png", 3)


def build_search(model: nn.Module, threshold: float = 0.5, tile_px: int = 1024) -> WindowSearch:
    spec = ModelSpec("", {}, 0.0, (3, 20, 20), ("no-plane", "plane"), (0.0,) * 3, (255.0,) * 3)
    return WindowSearch(Predictor(model, spec, torch.device("cpu")), 1, threshold, tile_px)


def found_in(search: WindowSearch, scene: WholeScene) -> list[tuple[int, int, float]]:
    hits = Hits.joined([search.search(scene, tile) for tile in search.tiles(scene)])
    return sorted(zip(hits.top.tolist(), hits.left.tolist(), hits.logit.tolist(), strict=True))


def all_windows(search: WindowSearch, scene: WholeScene) -> list[tuple[int, int]]:
    """Where the network sees the class at every window of the grid."""
    rows, columns = search.grid(scene)
    pixels = torch.from_numpy(scene.read(0, 0, scene.height, scene.width).copy())
    places = [(search.step * row, search.step * column) for row in range(rows) for column in range(columns)]
    images = torch.stack([pixels[:, top : top + 20, left : left + 20] for top, left in places])
    scores = search.predictor.scores(images)
    return [
        place for place, seen in zip(places, scores[:, 1] - scores[:, 0] >= search.least_logit, strict=True) if seen
    ]


def test_every_window_that_shows_the_class_is_found_without_looking_at_all(scene: WholeScene) -> None:
    search = build_search(BrightMiddle())
    assert search.dense is None
    found = [(top, left) for top, left, _ in found_in(search, scene)]
    assert found == all_windows(search, scene)
    assert len(found) > len(PLACES)
    assert all(any(abs(top - y) < 3 and abs(left - x) < 3 for y, x in PLACES) for top, left in found)


@pytest.mark.parametrize("tile_px", [20, 64, 100])
def test_the_size_of_the_tiles_changes_nothing(scene: WholeScene, tile_px: int) -> None:
    assert found_in(build_search(BrightMiddle(), tile_px=tile_px), scene) == found_in(
        build_search(BrightMiddle()), scene
    )


def test_the_size_of_the_tiles_changes_nothing_for_a_pass_over_the_picture(scene: WholeScene) -> None:
    torch.manual_seed(3)
    model = PlanesNetCnn(width=4)
    with torch.no_grad():  # a network that sees something in about a twentieth of the windows
        model.read_out.scores.weight *= 8
        scores = build_search(model).predictor.scores(torch.from_numpy(scene.read(0, 0, 141, 203).copy()).unfold(
            1, 20, 4).unfold(2, 20, 4).permute(1, 2, 0, 3, 4).reshape(-1, 3, 20, 20))  # fmt: skip
        model.read_out.scores.bias[1] -= (scores[:, 1] - scores[:, 0]).quantile(0.95)
    whole = build_search(model, tile_px=1024)
    assert whole.dense is not None
    found = found_in(whole, scene)
    assert len(found) > 20
    for tile_px in (50, 96):
        assert found_in(build_search(model, tile_px=tile_px), scene) == found


def test_what_shows_nothing_is_not_looked_at(tmp_path: Path) -> None:
    Image.new("RGB", (100, 80), (120, 130, 140)).save(tmp_path / "water.png")

    class Fails(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise AssertionError("a flat window was looked at")

    assert found_in(build_search(Fails()), WholeScene(tmp_path / "water.png", 3)) == []


def test_a_scene_smaller_than_a_window_has_no_windows(tmp_path: Path) -> None:
    Image.new("RGB", (19, 80)).save(tmp_path / "small.png")
    scene = WholeScene(tmp_path / "small.png", 3)
    assert 0 in build_search(BrightMiddle()).grid(scene)
    assert list(build_search(BrightMiddle()).tiles(scene)) == []


def test_a_network_without_finite_scores_is_refused(scene: WholeScene) -> None:
    class Lost(BrightMiddle):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * float("nan")

    with pytest.raises(DataError, match="scores that are not finite"):
        found_in(build_search(Lost()), scene)
