"""The evaluation pass: each sample counted once, and the same figures for any number of ranks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from . import rank_parts
from .pool import RankPool, Run

TRAIN, TEST = 101, 47
DATA = {"name": "rank_parts:planes", "kwargs": {"train": TRAIN, "test": TEST}, "split": "official"}
WORLD_SIZES = (1, 2, 3)


def trained(ranks: RankPool, world_size: int = 1, **model: Any) -> Run:
    return ranks.train(
        world_size,
        model={"name": "rank_parts:SmallCnn", **model},
        data={**DATA, "horizontal_flip": True},
        batch={"global_batch_size": 21, "eval_batch_size": 10},
        optim={"name": "sgd", "lr": 0.05},
        train={"epochs": 3},
    )


def evaluate(
    ranks: RankPool, run: Run, world_size: int, test: int, split: str = "test"
) -> tuple[dict[str, Any], list[int]]:
    """The result, the same on every rank, and the ids that all ranks together looked at."""
    kwargs = {"train": TRAIN + TEST - test, "test": test}
    model_dir = str(run.folder / "run" / "model")
    replies = ranks.call("evaluate", world_size, model_dir=model_dir, data={"kwargs": kwargs}, split=split)
    assert all(reply["result"] == replies[0]["result"] for reply in replies)
    return replies[0]["result"], [one for reply in replies for one in reply["ids"]]


def by_hand(run: Run, test: int) -> tuple[np.ndarray, float]:
    """Confusion matrix and mean loss, without anything of disttrain's evaluation."""
    arrays = rank_parts.planes(TRAIN + TEST - test, test)
    trained_on = arrays.images[:TRAIN].astype(np.float64)
    mean, std = (f(trained_on, axis=(0, 2, 3), keepdims=True)[0] for f in (np.mean, np.std))
    model = rank_parts.SmallCnn((3, 20, 20), 2).eval()
    model.load_state_dict(run.exported)
    inputs = torch.from_numpy((arrays.images[-test:] - mean) / std).float()
    labels = torch.from_numpy(arrays.labels[-test:])
    with torch.no_grad():
        outputs = model(inputs)
    confusion = np.zeros((2, 2), dtype=int)
    np.add.at(confusion, (labels.numpy(), outputs.argmax(1).numpy()), 1)
    return confusion, torch.nn.functional.cross_entropy(outputs, labels).item()


@pytest.mark.parametrize("test", [TEST, 2], ids=["uneven_count", "fewer_samples_than_ranks"])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_figures_are_those_of_a_count_by_hand(ranks: RankPool, world_size: int, test: int) -> None:
    run = trained(ranks)
    result, ids = evaluate(ranks, run, world_size, test)
    confusion, loss = by_hand(run, test)
    assert sorted(ids) == list(range(TRAIN + TEST - test, TRAIN + TEST))
    assert result["count"] == test
    assert result["confusion_matrix"] == confusion.tolist()
    assert result["accuracy"] == np.trace(confusion) / test
    assert result["loss"] == pytest.approx(loss, rel=1e-5)
    assert result["world_size"] == world_size


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_split_all_counts_every_sample_once(ranks: RankPool, world_size: int) -> None:
    result, ids = evaluate(ranks, trained(ranks), world_size, TEST, "all")
    assert Counter(ids) == Counter(range(TRAIN + TEST))
    assert np.sum(result["confusion_matrix"]) == result["count"] == TRAIN + TEST


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_figures_at_the_end_of_training_are_those_of_the_exported_model(ranks: RankPool, world_size: int) -> None:
    run = trained(ranks, world_size)
    expected, _ = evaluate(ranks, run, 1, TEST)
    figures = run.result["test"]
    assert figures["confusion_matrix"] == expected["confusion_matrix"]
    assert figures["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert all(rank["result"]["test"] == figures for rank in run.ranks)


def test_every_rank_evaluates_the_exported_model_also_where_batchnorm_is_not_synchronised(ranks: RankPool) -> None:
    run = trained(ranks, 3, kwargs={"batch_norm": True})
    expected, _ = evaluate(ranks, run, 1, TEST)
    assert run.result["test"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
