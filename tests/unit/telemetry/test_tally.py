"""Counting while training, and the lines of metrics.jsonl."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from disttrain.telemetry import tally as tally_module
from disttrain.telemetry.metrics_file import MetricsFile
from disttrain.telemetry.tally import NOTHING, Tally, Totals, counts_as_classification

CPU = torch.device("cpu")


def batch(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, 5, generator=draw, requires_grad=True)
    targets = torch.randint(0, 5, (count,), generator=draw)
    return outputs, targets, torch.nn.functional.cross_entropy(outputs, targets, reduction="sum")


@pytest.mark.parametrize("kept", [1, 1 << 16])
def test_a_tally_counts_losses_correct_answers_and_samples_of_all_micro_batches(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally_module, "_KEPT_VALUES", kept)
    tally, batches = Tally(CPU), [batch(7, 1), batch(3, 2), batch(7, 3)]
    for one in batches:
        tally.add(*one)
    tally.commit()
    loss, correct, count = Totals.of(tally.pop_sums().tolist())
    assert loss == pytest.approx(sum(one[2].item() for one in batches), rel=1e-6)
    assert correct == sum(int((outputs.argmax(1) == targets).sum()) for outputs, targets, _ in batches)
    assert count == 17
    assert tally.classifies


def test_taking_begins_anew() -> None:
    tally = Tally(CPU)
    tally.add(*batch(4, 1))
    tally.commit()
    first = tally.pop_sums()
    assert tally.pop_sums().tolist() == list(NOTHING)
    assert first[-1] == 4
    tally.add(*batch(2, 1))
    tally.commit()
    assert tally.pop_sums()[-1] == 2


def test_what_a_step_gave_counts_only_once_it_is_confirmed() -> None:
    tally = Tally(CPU)
    tally.add(*batch(4, 1))
    tally.discard()
    tally.add(*batch(3, 2))
    tally.commit()
    assert tally.pop_sums()[-1] == 3


def test_a_tally_keeps_no_graph_alive() -> None:
    tally = Tally(CPU)
    tally.add(*batch(4, 1))
    tally.commit()
    assert not tally.pop_sums().requires_grad


def test_outputs_without_classes_are_counted_without_correct_answers() -> None:
    tally = Tally(CPU)
    tally.add(torch.zeros(6, 1), torch.zeros(6, 1), torch.tensor(2.5))
    tally.commit()
    assert Totals.of(tally.pop_sums().tolist()) == (2.5, 0, 6)
    assert not tally.classifies


@pytest.mark.parametrize("target", [-1, 5])
def test_one_target_that_is_no_class_number_leaves_no_count_of_correct_answers(target: int) -> None:
    tally = Tally(CPU)
    for seed in (1, 2):
        outputs, targets, loss = batch(4, seed)
        targets[seed] = target if seed == 1 else targets[seed]
        tally.add(outputs, targets, loss)
    tally.commit()
    assert Totals.of(tally.sums().tolist()).correct is None
    assert Totals.of(tally.pop_sums().tolist()).samples == 8
    tally.add(*batch(4, 3))
    tally.commit()
    assert Totals.of(tally.pop_sums().tolist()).correct is not None


def test_losses_of_a_float64_network_keep_their_bits() -> None:
    tally, losses = Tally(CPU), [torch.tensor(1 / 3, dtype=torch.float64), torch.tensor(1e-20, dtype=torch.float64)]
    for loss in losses:
        tally.add(torch.zeros(1, 1), torch.zeros(1, 1), loss)
    tally.commit()
    assert Totals.of(tally.pop_sums().tolist()).loss_sum == math.fsum(one.item() for one in losses)


@pytest.mark.parametrize(
    ("outputs", "targets", "expected"),
    [
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), True),
        (torch.zeros(4, 3), torch.zeros(4), False),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64), False),
        (torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64), False),
        (torch.zeros(4, 3, 2), torch.zeros(4, 2, dtype=torch.int64), False),
    ],
)
def test_class_scores_for_integer_targets_are_a_classification(
    outputs: torch.Tensor, targets: torch.Tensor, expected: bool
) -> None:
    assert counts_as_classification(outputs, targets) is expected


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_each_line_is_strict_json_also_where_values_are_not_finite(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "m.jsonl", 0)
    file.write(step=1, loss=float("nan"), grad_norm=float("inf"), lr=-float("inf"), accuracy=None, split="train")
    file.write(step=2, loss=1 / 3)
    written = lines(tmp_path / "m.jsonl")  # a line is on disk before the file is closed
    file.close()
    assert {key: value for key, value in written[0].items() if key != "time"} == {
        "step": 1, "loss": None, "grad_norm": None, "lr": None, "accuracy": None, "split": "train",
    }  # fmt: skip
    assert written[1]["loss"] == 0.333333
    assert written[0]["time"] <= written[1]["time"]


def test_a_resumed_run_drops_the_lines_after_its_checkpoint_and_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    first = MetricsFile(path, 0)
    for step in (5, 10, 15):
        first.write(step=step, loss=float(step))
    first.close()
    with path.open("a") as file:
        file.write('{"time": 1.0, "st')
    second = MetricsFile(path, 10)
    second.write(step=15, loss=0.5)
    second.close()
    assert [(line["step"], line["loss"]) for line in lines(path)] == [(5, 5), (10, 10), (15, 0.5)]
