"""On several ranks: what does not fit is refused alike on all, and a step that is left out leaves no trace on any."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from disttrain.data.order import epoch_order

from .pool import RankPool, Run, identical

REFUSED = getattr(pytest.fail, "Exception")  # noqa: B009


def train(ranks: RankPool, count: int, bad: list[int], loss: str | None = None, **sections: Any) -> Run:
    base: dict[str, dict[str, Any]] = {
        "model": {"name": "rank_parts:RowNet"},
        "data": {
            "name": "rank_parts:rows", "kwargs": {"count": count, "bad": bad}, "test_fraction": 0.0,
            "loader_workers": 0,
        },
        "batch": {"global_batch_size": 16},
        "optim": {"name": "sgd", "lr": 0.1},
        "train": {"epochs": 1, "nonfinite": "skip", "device": "cpu", "log_every_steps": 1},
    }  # fmt: skip
    merged = {name: {**base.get(name, {}), **sections.get(name, {})} for name in base | sections}
    return ranks.train(2, loss=loss, every_step=True, **merged)


def suspects(run: Run) -> list[list[int]]:
    lines = (run.folder / "run/nonfinite.jsonl").read_text().splitlines()
    return [json.loads(line)["suspects"] for line in lines]


@pytest.mark.parametrize("bad", [2, 13])
def test_a_step_left_out_leaves_no_trace_on_any_rank_and_blames_its_sample(ranks: RankPool, bad: int) -> None:
    run = train(ranks, 16, [bad])
    assert suspects(run) == [[bad]]
    for rank in range(2):
        assert identical(run.final(rank), run.initial(rank))


def test_the_error_feedback_of_powersgd_survives_a_step_left_out(ranks: RankPool) -> None:
    bad = int(epoch_order(0, 0, 16 * 15)[16 * 12])  # in step 13: the first 10 travel as they are
    run = train(ranks, 16 * 15, [bad], comm={"compression": "powersgd"})
    assert suspects(run) == [[bad]]
    assert [line["step"] for line in run.metrics if line["loss"] is None] == [13]
    assert all(bool(one.isfinite().all()) for one in run.final().values())


def test_a_rank_without_a_sample_in_a_step_keeps_its_statistics(ranks: RankPool) -> None:
    run = train(ranks, 17, [])
    before, after = run.after_step(1), run.after_step(2)
    buffers = [name for name in before if "running" in name or "tracked" in name]
    assert buffers
    assert all(torch.equal(after[name], before[name]) for name in buffers)
    assert not torch.equal(after["head.weight"], before["head.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": {"kwargs": {"unused": True}}}, "weights of the network have no part in the loss, e.g. spare.weight"),
        ({"loss": "weighted_mean"}, "the loss is no mean and no sum over samples"),
    ],
)
def test_what_does_not_fit_is_one_message_on_all_ranks(ranks: RankPool, options: dict[str, Any], message: str) -> None:
    with pytest.raises(REFUSED) as caught:
        train(ranks, 16, [], **options)
    told = [part.strip().splitlines()[-1] for part in str(caught.value).split("rank 1:\n")]
    assert told[0] == told[1]
    assert message in told[0]
