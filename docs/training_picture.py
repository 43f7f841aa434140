"""The picture in the README: curves, confusion matrix and mistakes of a run on PlanesNet-like chips.

python docs/training_picture.py RUN_DIR OUTPUT.png      (needs matplotlib)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from disttrain.config.sections import DataConfig
from disttrain.data.base import ImageArrays
from disttrain.data.open import open_dataset
from disttrain.inference.predictor import Predictor
from disttrain.models.model_dir import load_model_dir


def main(run_dir: Path, output: Path) -> None:
    """Draw the four panels."""
    result = json.loads((run_dir / "result.json").read_text())
    figure, axes = plt.subplot_mosaic(
        [["loss", "accuracy", "matrix"], ["mistakes", "mistakes", "mistakes"]],
        figsize=(11, 5.4),
        height_ratios=[3, 1.6],
        layout="constrained",
    )
    draw_curves(axes, [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()])
    draw_matrix(axes["matrix"], result["test"])
    draw_mistakes(axes["mistakes"], run_dir)
    workers, seconds = result["world_size"], result["wall_s"]
    accuracy, count = result["test"]["accuracy"], result["test"]["count"]
    figure.suptitle(f"{accuracy:.2%} of {count:,} test chips, {seconds:.0f} s on {workers} CPU workers", fontsize=12)
    figure.savefig(output, dpi=110)


def draw_curves(axes: Any, lines: list[dict[str, Any]]) -> None:
    """Loss and accuracy over epochs, on training and validation samples."""
    steps_per_epoch = max(line["step"] / line["epoch"] for line in lines if line["split"] == "val")
    for split, style in (("train", {"color": "0.6", "lw": 1}), ("val", {"color": "C0", "marker": "o", "ms": 4})):
        chosen = [line for line in lines if line["split"] == split]
        for metric in ("loss", "accuracy"):
            epochs = [line["step"] / steps_per_epoch for line in chosen]
            axes[metric].plot(epochs, [line[metric] for line in chosen], label=split, **style)
            axes[metric].set(xlabel="epoch", title=metric)
    axes["accuracy"].set_ylim(0.9, 1.0)
    axes["loss"].set_ylim(0, 0.6)
    axes["accuracy"].legend(loc="lower right")


def draw_matrix(axis: Any, test: dict[str, Any]) -> None:
    """Rows are the truth, columns what the model says."""
    matrix, names = np.array(test["confusion_matrix"]), test["class_names"]
    axis.imshow(matrix / matrix.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1.3)
    for (row, column), value in np.ndenumerate(matrix):
        axis.text(column, row, f"{value:,}", ha="center", va="center", fontsize=13)
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names, rotation=90, va="center")
    axis.set(xlabel="predicted", ylabel="true", title="test chips")


def draw_mistakes(axis: Any, run_dir: Path, shown: int = 16) -> None:
    """The test chips on which the model is most surely wrong."""
    model, spec = load_model_dir(run_dir)
    dataset = open_dataset(DataConfig(**{key: value for key, value in spec.data.items() if key != "fingerprint"}))
    samples, ids = dataset.samples, dataset.splits["test"]
    if not isinstance(samples, ImageArrays):
        raise SystemExit("the picture is made from decoded images")
    probabilities = Predictor(model, spec, torch.device("cpu")).probabilities(samples.images[ids])
    truth = samples.labels[ids]
    worst = np.argsort(probabilities[np.arange(len(ids)), truth])[:shown]
    worst = worst[probabilities[worst].argmax(1) != truth[worst]]
    gap = np.full((20, 2, 3), 255, np.uint8)
    tiles = [part for index in worst for part in (samples.images[ids[index]].transpose(1, 2, 0), gap)]
    axis.imshow(np.concatenate(tiles, axis=1), interpolation="nearest")
    for place, index in enumerate(worst):
        said = spec.class_names[probabilities[index].argmax()]
        axis.text(place * 22 + 10, 22, f"{said}?\n{probabilities[index].max():.0%}", ha="center", va="top", fontsize=8)
    axis.set_axis_off()
    axis.set_title("the surest mistakes, and what the model takes them for")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
