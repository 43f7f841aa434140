"""The batch arithmetic: every sample once, on one rank, in one micro-batch, whatever divides or does not."""

from __future__ import annotations

import random

import pytest

from disttrain.data.batch_plan import BatchPlan, check_world_size, rank_slice
from disttrain.errors import ConfigError


def draws(count: int) -> list[tuple[int, int, int, int | None]]:
    """(samples, world_size, global_batch_size, micro_batch_size), all allowed."""
    draw = random.Random(5)
    made = []
    for _ in range(count):
        world_size = draw.randint(1, 9)
        samples = draw.randint(world_size, 300)
        global_batch = draw.randint(world_size, 400)
        made.append((samples, world_size, global_batch, draw.choice([None, draw.randint(1, 50)])))
    return made


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 64])
def test_shares_cover_the_range_once_and_differ_by_one_at_most(world_size: int) -> None:
    for count in range(200):
        shares = [rank_slice(count, rank, world_size) for rank in range(world_size)]
        assert [position for share in shares for position in share] == list(range(count))
        sizes = {len(share) for share in shares}
        assert max(sizes) - min(sizes) <= 1


def test_every_position_of_an_epoch_is_in_one_micro_batch_of_one_rank() -> None:
    for samples, world_size, global_batch, micro in draws(300):
        plan = BatchPlan.build(samples, world_size, global_batch, micro)
        seen = []
        for step in range(plan.steps_per_epoch):
            positions = plan.step_range(step)
            assert 1 <= len(positions) <= global_batch
            counts = set()
            for rank in range(world_size):
                ranges = plan.micro_ranges(step, rank)
                counts.add(len(ranges))
                assert len(ranges) <= plan.grad_accum_steps
                assert max(map(len, ranges)) <= plan.micro_batch_size
                assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
                seen += [at for one in ranges for at in one]
            assert len(counts) == 1, "ranks differ in the number of micro-batches"
        assert seen == list(range(samples)), plan


def test_only_the_last_step_may_be_smaller() -> None:
    for samples, world_size, global_batch, micro in draws(100):
        plan = BatchPlan.build(samples, world_size, global_batch, micro)
        sizes = [len(plan.step_range(step)) for step in range(plan.steps_per_epoch)]
        assert sizes[:-1] == [global_batch] * (len(sizes) - 1)
        assert sizes[-1] == samples - global_batch * (len(sizes) - 1)


def test_which_samples_form_a_step_does_not_depend_on_world_size_or_micro_batch() -> None:
    plans = [BatchPlan.build(100, world_size, 24, micro) for world_size in (1, 3, 8) for micro in (None, 1, 5)]
    assert len({tuple(plan.step_range(step) for step in range(plan.steps_per_epoch)) for plan in plans}) == 1


def test_without_a_micro_batch_size_a_rank_takes_its_whole_share_at_once() -> None:
    plan = BatchPlan.build(1000, 4, 102)
    assert (plan.micro_batch_size, plan.grad_accum_steps) == (26, 1)


def test_a_micro_batch_is_never_larger_than_the_largest_share() -> None:
    assert BatchPlan.build(1000, 4, 100, 99).micro_batch_size == 25
    assert BatchPlan.build(10, 4, 100, 99).micro_batch_size == 3


def test_accumulation_steps_are_those_of_the_busiest_rank() -> None:
    plan = BatchPlan.build(1000, 3, 100, 10)  # shares of 33, 33 and 34
    assert plan.grad_accum_steps == 4
    sizes = [[len(one) for one in plan.micro_ranges(0, rank)] for rank in range(3)]
    assert sizes == [[8, 8, 8, 9], [8, 8, 8, 9], [8, 9, 8, 9]]


def test_a_rank_without_samples_in_a_small_last_step_has_an_empty_micro_batch() -> None:
    plan = BatchPlan.build(9, 4, 7)  # the last step has 2 samples for 4 ranks
    assert [plan.micro_ranges(1, rank) for rank in range(4)] == [
        [range(7, 7)],
        [range(7, 8)],
        [range(8, 8)],
        [range(8, 9)],
    ]


def test_a_global_batch_smaller_than_the_world_is_refused() -> None:
    message = (
        r"batch\.global_batch_size=100 is smaller than world_size=128: every rank needs a sample\. "
        r"Use global_batch_size >= 128 or fewer workers\."
    )
    with pytest.raises(ConfigError, match=message):
        BatchPlan.build(1000, 128, 100)
    with pytest.raises(ConfigError, match=message):
        check_world_size(100, 128)
    check_world_size(128, 128)


def test_fewer_samples_than_ranks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"holds 3 samples for world_size=4.*Use at most 3 workers"):
        BatchPlan.build(3, 4, 8)
    assert BatchPlan.build(4, 4, 8).steps_per_epoch == 1


def test_the_plan_is_told_in_one_line() -> None:
    assert BatchPlan.build(8_523, 2, 256, 64).render() == (
        "8,523 training samples = 34 steps/epoch of 256 (the last 75); "
        "a step = 2 rank(s) x 2 micro-batch(es) of up to 64"
    )
