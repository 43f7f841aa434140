"""`disttrain predict` beside a bare loop over decoded tensors, plus decoding at full parallel speed.

python benchmarks/predict.py --model runs/planesnet/model --images planesnet.zip
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch

from disttrain.comm.control_plane import ControlPlane
from disttrain.data.decode_all import decode_all
from disttrain.data.image_store import ImageStore
from disttrain.inference import predict_progress
from disttrain.inference.predict_files import predict_files
from disttrain.inference.predictor import Predictor
from disttrain.launch.env import RankEnv
from disttrain.log import log
from disttrain.models.model_dir import load_model_dir

_BATCH_SIZE = 512


class Subjects:
    """Both, on the same images, with the same network, on all cores."""

    def __init__(self, model_dir: Path, images: Path, scratch: Path) -> None:
        self.model_dir, self.images, self.scratch = model_dir, images, scratch
        model, self.spec = load_model_dir(model_dir)
        self.predictor = Predictor(model, self.spec, torch.device("cpu"))
        self.parts: dict[str, list[float]] = {}

    def predict(self) -> float:
        """Seconds of all that the command does once it has started: list, decode, compute, write."""
        env = RankEnv.alone()
        plane = ControlPlane(env, 60.0)
        output = str(self.scratch / "out.csv")
        return harness.timed(
            lambda: predict_files(self.model_dir, [str(self.images)], output, "cpu", False, env, plane)
        )

    def bare(self) -> float:
        """Seconds of decoding everything on all cores, and then of the network over the tensors."""
        store = ImageStore(self.images)
        names = store.names()
        out = np.memmap(self.scratch / "pixels", np.uint8, "w+", shape=(len(names), *self.spec.input_shape))
        decoding = harness.timed(lambda: decode_all(store, names, out, self.spec.resize, lambda count: None))

        def compute() -> None:
            for at in range(0, len(out), _BATCH_SIZE):
                self.predictor.probabilities(np.array(out[at : at + _BATCH_SIZE]))

        computing = harness.timed(compute)
        self.parts.setdefault("decoding", []).append(decoding)
        self.parts.setdefault("network", []).append(computing)
        return decoding + computing


def part_of(images: Path, count: int, scratch: Path) -> Path:
    """A zip with the first `count` members of a zip."""
    path = scratch / "part.zip"
    with zipfile.ZipFile(images) as whole, zipfile.ZipFile(path, "w") as part:
        for info in [one for one in whole.infolist() if not one.is_dir()][:count]:
            part.writestr(zipfile.ZipInfo(info.filename), whole.read(info))
    return path


def main() -> None:
    parser = harness.argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="DIR", help="a model directory")
    parser.add_argument("--images", required=True, metavar="ZIP")
    parser.add_argument("--count", type=int, default=32_000, help="of its images")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    started = harness.describe_machine()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shares: list[str] = []
    predict_progress._LINE_EVERY_S = 0.0  # says where the time goes, however little it was
    log.addFilter(lambda record: shares.append(record.getMessage()) or True)  # type: ignore[func-returns-value]
    log.setLevel("INFO")
    with harness.scratch_folder() as scratch:
        images = part_of(Path(arguments.images), arguments.count, scratch)
        count = len(ImageStore(images).names())
        subjects = Subjects(Path(arguments.model), images, scratch)
        measured = harness.alternate({"predict": subjects.predict, "bare": subjects.bare}, arguments.rounds, 1)
    speeds: dict[str, Any] = {name: [count / one for one in seconds] for name, seconds in measured.items()}
    ratio = harness.ratios(speeds["predict"], speeds["bare"])
    rows = [
        [name, harness.Spread.of(speeds[name]).render(",.0f"), harness.Spread.of(measured[name]).render(".2f")]
        for name in ("predict", "bare")
    ]
    rows.append(["ratio of each pair", ratio.render(".3f"), ""])
    parts = {name: harness.Spread.of(values[1:]).render(".2f") for name, values in subjects.parts.items()}
    said = [one for one in shares if re.search(r" s on rank 0: ", one)]
    text = (
        f"{count:,} images of 20x20 pixels in a zip, one rank on all cores, {arguments.rounds} rounds in turns after "
        "one that is not counted. `predict`: all that the command does after its start. `bare`: the images decoded "
        f"into memory by a process per core ({parts['decoding']} s), then the network over the tensors in batches of "
        f"{_BATCH_SIZE} ({parts['network']} s). Medians (least - greatest).\n\n"
        + harness.render_table(["", "images/s", "seconds"], rows)
        + f"\n\nWhere the time of `predict` goes, in its last round: {said[-1].partition(': ')[2]}."
    )
    config = {"model": subjects.spec.model, "weights_sha256": subjects.spec.weights_sha256, "count": count}
    harness.report("predict", arguments, text, config, {**measured, **subjects.parts}, started)


if __name__ == "__main__":
    main()
