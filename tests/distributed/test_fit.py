"""`disttrain.fit`: one's own network and data, alone and on several ranks."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from . import rank_parts
from .commands import REPOSITORY, Commands
from .pool import Measured, RankPool, Weights, identical, relative_difference

EXAMPLE = REPOSITORY / "examples/rings.py"
SECTIONS = {"batch": {"global_batch_size": 16}, "train": {"epochs": 3}, "optim": {"lr": 0.02}}


def fit(
    ranks: RankPool,
    world_size: int,
    noise: bool = False,
    loss: str | None = None,
    times: int = 1,
    own_seeds: bool = False,
    **sections: Any,
) -> tuple[list[list[dict[str, Any]]], Weights]:
    """What `fit` returned on each rank, and the weights of the user's own network, the same on every rank."""
    folder = ranks.folder_for_job()
    results = ranks.call(
        "fit", world_size, folder=str(folder), noise=noise, loss=loss, times=times, own_seeds=own_seeds,
        sections={**SECTIONS, **sections},
    )  # fmt: skip
    weights = [load_file(folder / f"final_{rank}.safetensors") for rank in range(world_size)]
    assert all(identical(one, weights[0]) for one in weights)
    return results, weights[0]


def test_readme_example_is_short_and_gives_the_same_alone_and_under_torchrun(
    commands: Commands, measured: Measured
) -> None:
    assert len([line for line in EXAMPLE.read_text().splitlines() if line.strip()]) < 15
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = []
    for launcher in ([sys.executable], torchrun):
        commands.succeed([*launcher, EXAMPLE])
        run_dir = commands.folder / "runs" / "fit"
        found.append(
            (json.loads((run_dir / "result.json").read_text()), load_file(run_dir / "model/model.safetensors"))
        )
    (alone, alone_weights), (two, two_weights) = found
    assert (alone["world_size"], two["world_size"]) == (1, 2)
    assert alone["test"]["count"] == two["test"]["count"] == 500
    assert alone["test"]["confusion_matrix"] == two["test"]["confusion_matrix"]
    assert alone["test"]["accuracy"] > 0.9
    difference = relative_difference(two_weights, alone_weights)
    measured("relative_difference", difference)
    assert difference < 1e-5


@pytest.mark.parametrize("loss", [None, "margin_loss", "mean_margin_loss"])
@pytest.mark.parametrize("noise", [False, True], ids=["plain", "random_augmentation"])
def test_fit_gives_the_same_weights_on_one_and_two_ranks(
    ranks: RankPool, noise: bool, loss: str | None, measured: Measured
) -> None:
    (_, alone), (results, two) = (fit(ranks, size, noise, loss) for size in (1, 2))
    difference = relative_difference(two, alone)
    measured("relative_difference", difference)
    assert difference < 1e-5
    assert [one["world_size"] for (one,) in results] == [2, 2]


def test_losses_and_random_augmentation_make_a_difference(ranks: RankPool) -> None:
    weights = [fit(ranks, 2, *how)[1] for how in ((False, None), (True, None), (False, "margin_loss"))]
    assert relative_difference(weights[1], weights[0]) > 1e-3
    assert relative_difference(weights[2], weights[0]) > 1e-3


@pytest.mark.parametrize("loader_workers", [0, 3])
def test_random_augmentation_does_not_depend_on_loader_workers(ranks: RankPool, loader_workers: int) -> None:
    _, usual = fit(ranks, 2, noise=True)
    _, weights = fit(ranks, 2, noise=True, data={"loader_workers": loader_workers})
    assert identical(weights, usual)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_ranks_with_different_initial_weights_take_those_of_rank_zero(ranks: RankPool, ema_decay: float) -> None:
    train = {"epochs": 3, "ema_decay": ema_decay}
    _, same = fit(ranks, 2, train=train)
    results, weights = fit(ranks, 2, own_seeds=True, train=train)
    assert identical(weights, same)
    assert len({one["weights_sha256"] for (one,) in results}) == 1
    model = rank_parts.PointNet()
    model.load_state_dict(weights)
    items = [rank_parts.Points(31)[index] for index in range(31)]
    with torch.no_grad():
        outputs = model(torch.stack([point for point, _ in items]))
    loss = functional.cross_entropy(outputs, torch.tensor([target for _, target in items])).item()
    assert [one["test"]["loss"] for (one,) in results] == pytest.approx([loss] * 2, rel=1e-5)


def test_fit_twice_in_one_program_trains_twice(ranks: RankPool) -> None:
    alone, alone_weights = fit(ranks, 1, times=2)
    results, weights = fit(ranks, 2, times=2)
    assert [len(one) for one in results] == [2, 2]
    assert relative_difference(weights, alone_weights) < 1e-5
    assert all(one[1]["test"]["loss"] < one[0]["test"]["loss"] for one in [*alone, *results])


def test_a_second_training_in_one_program_knows_no_notices_of_the_first(ranks: RankPool) -> None:
    zero, one = ranks.call("boards", 2)
    missing = "only 1 of world_size=2 ranks reached the stage 'alone' within 0.2 s"
    assert [text.partition(". ")[0] for text in zero] == ["first", missing, "second", missing]
    assert one == ["first", "second"]
