"""What a user sees of several ranks: a warning once, with the ranks that gave it."""

from __future__ import annotations

import re

from .commands import DISTTRAIN, Commands
from .pool import RankPool

WARNING_MODEL = """
import logging
import os
import warnings

from torch import nn

log = logging.getLogger("disttrain")


class Net(nn.Module):
    def __init__(self, input_shape, class_count):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(1200, class_count))
        self.calls = 0

    def forward(self, images):
        if self.training:
            self.calls += 1
            if self.calls == 2:
                log.warning("all ranks say this")
                warnings.warn("all ranks warn of this")
            if self.calls == 3 and os.environ["RANK"] == "1":
                log.warning("one rank says this")
                warnings.warn("one rank warns of this")
        return self.layers(images)
"""
CONFIG = (
    "{model: {name: 'warning:Net'}, data: {kwargs: {count: 300}}, batch: {global_batch_size: 60}, train: {epochs: 2}}"
)


def test_a_warning_is_shown_once_with_the_ranks_that_gave_it(commands: Commands) -> None:
    commands.write("warning.py", WARNING_MODEL)
    config = commands.write("config.yaml", CONFIG)
    ended = commands.succeed([*DISTTRAIN, "train", config, "--workers", "3", "--run-dir", "run"])
    lines = ended.stderr.splitlines()
    for text, who in (
        ("all ranks say this", "[ranks 0-2] "),
        ("all ranks warn of this", "[ranks 0-2] "),
        ("one rank says this", "[rank 1] "),
        ("one rank warns of this", "[rank 1] "),
    ):
        shown = [line for line in lines if text in line and "warn(" not in line]
        assert len(shown) == 1, ended.stderr
        assert shown[0].startswith(who)
    for rank in range(3):
        own = (commands.folder / "run" / "logs" / f"rank_{rank}.log").read_text()
        assert len(re.findall(rf"rank {rank}: .*all ranks say this", own)) == 1
        assert ("one rank says this" in own) == (rank == 1)
        assert "all ranks warn of this" in own
    assert ended.stderr.count("launched by torchrun") == 1


def test_a_warning_that_ranks_give_a_moment_apart_is_shown_once(ranks: RankPool) -> None:
    # Rank zero looks every half second: the second look falls between the warnings.
    shown = ranks.call("warn", 3, after_s=0.35, apart_s=0.15)
    assert shown == ["[ranks 0-2] warning: everybody says this\n", "", ""]
