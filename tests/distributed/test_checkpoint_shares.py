"""Checkpoints that every rank writes a part of: the parts make one whole, for any number of ranks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from .pool import RankPool, relative_difference

STEPS, SAVED = 16, 12
SMALL = 4096
"""Bytes in a share: the network below has 20 times as many."""


@dataclass(frozen=True)
class Case:
    """A config, and what its checkpoint must hold beside the weights."""

    sections: dict[str, Any]
    share_bytes: int = SMALL
    state: tuple[str, ...] = ("exp_avg", "exp_avg_sq", "step")


ADAMW = {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05}
CASES = {
    "shares": Case({"optim": ADAMW, "train": {"ema_decay": 0.9}}),
    "sgd": Case({"optim": {"name": "sgd", "lr": 0.05}}, state=("momentum_buffer",)),
    "zero": Case({"optim": {**ADAMW, "zero_redundancy": True}}, share_bytes=2**30),
    "batch_norm": Case({"model": {"kwargs": {"batch_norm": True}}, "optim": ADAMW}),
    "powersgd": Case({"comm": {"compression": "powersgd", "powersgd_rank": 1}, "optim": ADAMW}),
}


def sections(case: Case) -> dict[str, Any]:
    given = case.sections
    return {
        **given,
        "model": {"name": "rank_parts:SmallCnn", **given.get("model", {})},
        "data": {"name": "rank_parts:planes", "kwargs": {"train": 101, "test": 20}, "split": "official"},
        "batch": {"global_batch_size": 20},
        "train": {"max_steps": STEPS, **given.get("train", {})},
        "checkpoint": {"every_steps": 4, "keep": 10},
    }


@dataclass(frozen=True)
class Trained:
    run_dir: Path
    sha256: str

    @property
    def weights(self) -> dict[str, Any]:
        return load_file(self.run_dir / "model/model.safetensors")

    @property
    def checkpoint(self) -> Path:
        return self.run_dir / f"checkpoints/step_{SAVED:08d}"


_numbers = itertools.count()
_whole: dict[str, Trained] = {}


def train(ranks: RankPool, name: str, world_size: int, resume: Path | str) -> Trained:
    case, run_dir = CASES[name], ranks.folder_for_job() / f"run_{next(_numbers)}"
    request = {"run_dir": str(run_dir), "sections": sections(case), "share_bytes": case.share_bytes}
    hashes = ranks.call("train_from", world_size, resume=str(resume), **request)
    assert len(set(hashes)) == 1
    return Trained(run_dir, hashes[0])


def whole(ranks: RankPool, name: str) -> Trained:
    """The run on two ranks that is never interrupted."""
    if name not in _whole:
        _whole[name] = train(ranks, name, 2, "never")
    return _whole[name]


@pytest.mark.parametrize("name", CASES)
def test_the_shares_together_are_the_state_and_no_tensor_is_written_twice(ranks: RankPool, name: str) -> None:
    run = whole(ranks, name)
    files = {path.name: load_file(path) for path in run.checkpoint.glob("*.safetensors")}
    assert sorted(files) == ["tensors_0.safetensors", "tensors_1.safetensors"]
    written = [key for tensors in files.values() for key in tensors]
    assert len(written) == len(set(written))
    parameters = [key for key in run.weights if not key.endswith(("running_mean", "running_var", "tracked"))]
    expected = {f"model/{key}" for key in run.weights}
    expected |= {f"optimizer/{index}/{state}" for index in range(len(parameters)) for state in CASES[name].state}
    if name == "shares":
        expected |= {f"average/{index}" for index in range(len(parameters))}
    assert {key for key in written if not key.startswith("rank_")} == expected
    assert not [key for key in files["tensors_1.safetensors"] if "running" in key]
    if name == "powersgd":
        for rank in range(2):
            own = [key for key in files[f"tensors_{rank}.safetensors"] if key.startswith("rank_")]
            assert any("error_dict" in key for key in own)
            assert all(key.startswith(f"rank_{rank}_of_2/") for key in own)


@pytest.mark.parametrize("name", CASES)
def test_the_same_number_of_ranks_goes_on_to_the_same_bits(ranks: RankPool, name: str) -> None:
    run = whole(ranks, name)
    assert train(ranks, name, 2, run.checkpoint).sha256 == run.sha256


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("name", ["shares", "sgd", "zero"])
def test_another_number_of_ranks_goes_on_to_the_same_weights(ranks: RankPool, name: str, world_size: int) -> None:
    run = whole(ranks, name)
    assert relative_difference(train(ranks, name, world_size, run.checkpoint).weights, run.weights) < 1e-5


def test_another_number_of_ranks_begins_the_error_feedback_anew_and_says_so(ranks: RankPool) -> None:
    other = train(ranks, "powersgd", 3, whole(ranks, "powersgd").checkpoint)
    text = (other.run_dir / "logs/rank_0.log").read_text()
    assert "is of another number of ranks than world_size=3: it begins anew" in text
