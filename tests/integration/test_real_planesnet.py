"""The figures that the README promises on real chips, and the commands that use the network trained on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .shipped_configs import disttrain, train

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def planesnet_run(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run_dir = tmp_path_factory.mktemp("planesnet")
    return run_dir, train("planesnet", real_data / "planesnet/planesnet.zip", run_dir)


def test_the_planesnet_cnn_reaches_98_5_percent_on_scenes_it_never_saw(
    planesnet_run: tuple[Path, dict[str, Any]],
) -> None:
    _, result = planesnet_run
    assert result["test"]["accuracy"] >= 0.985
    assert result["epoch"] <= 10


def test_evaluate_prints_the_same_figures_as_the_run_on_any_number_of_workers(
    planesnet_run: tuple[Path, dict[str, Any]],
) -> None:
    run_dir, result = planesnet_run
    for workers in ("1", "2"):
        evaluated = json.loads(disttrain("evaluate", run_dir, "--workers", workers))
        assert evaluated["count"] == result["test"]["count"]
        assert evaluated["confusion_matrix"] == result["test"]["confusion_matrix"]
        assert evaluated["loss"] == pytest.approx(result["test"]["loss"], rel=1e-5)


def test_detect_finds_planes_in_a_scene(planesnet_run: tuple[Path, dict[str, Any]], real_data: Path) -> None:
    scene = real_data / "scenes" / "scene_2.png"
    if not scene.exists():
        pytest.skip("no scenes: DISTTRAIN_DATA has no scenes/scene_2.png")
    boxes = json.loads(disttrain("detect", planesnet_run[0], scene, "--workers", "2"))
    assert 20 <= len(boxes) <= 45
    for x, y in ((548, 302), (970, 424), (124, 324)):  # planes that stand free
        assert any(abs(box["x"] - x) < 8 and abs(box["y"] - y) < 8 for box in boxes)


def test_predict_agrees_with_evaluate_on_every_chip_of_the_zip(
    planesnet_run: tuple[Path, dict[str, Any]], real_data: Path, tmp_path: Path
) -> None:
    run_dir, _ = planesnet_run
    evaluated = json.loads(disttrain("evaluate", run_dir, "--split", "all"))
    output = tmp_path / "predictions.jsonl"
    zip_file = real_data / "planesnet/planesnet.zip"
    disttrain("predict", run_dir / "model", zip_file, "--output", output, "--workers", "2")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == evaluated["count"] == 27_051
    truth = ["plane" if Path(row["path"]).name.startswith("1__") else "no-plane" for row in rows]
    correct = sum(row["label"] == label for row, label in zip(rows, truth, strict=True))
    assert correct == evaluated["confusion_matrix"][0][0] + evaluated["confusion_matrix"][1][1]
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)


def test_no_scene_is_on_two_sides_of_the_split(real_data: Path) -> None:
    path = real_data / "planesnet/planesnet.zip"
    info = json.loads(disttrain("data", "info", "configs/planesnet.yaml", f"data.path={path}", "--json"))
    counts = {name: split["count"] for name, split in info["splits"].items()}
    assert sum(counts.values()) == 27_051
    assert counts == {"train": 21_383, "val": 1_728, "test": 3_940}
    assert info["scenes"] == 1_387
