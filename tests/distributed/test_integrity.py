"""A bit that flips on one rank is found before it reaches a checkpoint."""

from __future__ import annotations

import pytest

from .commands import DISTTRAIN, Commands

MODULE = """
import os, torch

class Damaged(torch.nn.Module):
    def __init__(self, input_shape, class_count):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 20 * 20, class_count)
        self.forwards = 0

    def forward(self, images):
        self.forwards += self.training
        if self.forwards == 11 and os.environ.get("RANK") == "1":
            words = self.layer.weight.detach().view(torch.int32).view(-1)
            words[5] ^= 1
        return self.layer(images.flatten(1))
"""


@pytest.mark.parametrize(
    ("workers", "who"),
    [(2, "ranks 0, 1 differ, and none has a majority"), (3, "rank 1 differs from the 2 others")],
)
def test_a_flipped_bit_ends_the_run_with_5_and_no_checkpoint_has_it(commands: Commands, workers: int, who: str) -> None:
    commands.write("parts.py", MODULE)
    config = commands.write("config.yaml", "model: {name: 'parts:Damaged'}\ndata: {kwargs: {count: 400}}\n")
    ended = commands.run(
        [*DISTTRAIN, "train", config, "--workers", str(workers), "--run-dir", "run", "batch.global_batch_size=20",
         "checkpoint.every_steps=4", "train.max_steps=40", "train.check_weights_every_steps=5"]
    )  # fmt: skip
    assert ended.code == 5
    assert ended.stderr.count("disttrain: error:") == 1
    assert who in ended.stderr
    kept = sorted(path.name for path in (commands.folder / "run/checkpoints").glob("step_*"))
    assert kept == ["step_00000004", "step_00000008"]
