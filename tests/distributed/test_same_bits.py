"""With `batch.shards` a training has the same bits on any number of workers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .pool import RankPool, Run, identical
from .test_resume import metrics

WORLD_SIZES = (2, 3, 4)
CHIPS = {"name": "rank_parts:planes", "kwargs": {"train": 90, "test": 21}, "split": "official", "val_fraction": 0.15}
DIGITS = {"name": "rank_parts:digits", "kwargs": {"train": 75, "test": 21}, "split": "official", "shift_px": 2}
ALL_SYMMETRIES = {"horizontal_flip": True, "vertical_flip": True, "quarter_turns": True, "brightness": 0.3}
# Global batches of 35, 35 and 5 samples: the last one leaves shards empty.
BATCH = {"global_batch_size": 35, "shards": 8, "eval_batch_size": 4}
SGD = {"name": "sgd", "lr": 0.1, "schedule": "one_cycle"}
CNN: dict[str, Any] = {
    "model": {"name": "rank_parts:SmallCnn"}, "data": {**CHIPS, **ALL_SYMMETRIES}, "batch": BATCH, "optim": SGD,
    "train": {"epochs": 2, "log_every_steps": 2},
}  # fmt: skip
MLP: dict[str, Any] = {
    "model": {"name": "mnist_mlp", "dropout": 0.2}, "data": DIGITS, "batch": BATCH,
    "optim": {"name": "adamw", "lr": 0.003, "clip_norm": 0.5}, "train": {"epochs": 2, "ema_decay": 0.9},
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "cnn": CNN,
    "mlp_dropout_clipping_ema": MLP,
    "accumulation": {**MLP, "batch": {**BATCH, "micro_batch_size": 2}},
    "four_shards": {**MLP, "batch": {**BATCH, "shards": 4}},
    "bf16_channels_last": {**CNN, "model": {"name": "mnist_cnn", "channels_last": True}, "data": DIGITS,
                           "train": {"epochs": 2, "precision": "bf16"}},
    "fp16": {**MLP, "train": {"epochs": 2, "precision": "fp16"}},
    "batchnorm": {**CNN, "model": {"name": "rank_parts:SmallCnn", "kwargs": {"batch_norm": True}}},
    "sharded_optimizer": {**MLP, "optim": {"name": "adamw", "zero_redundancy": True}},
    "streamed": {**MLP, "data": {**DIGITS, "placement": "stream", "loader_workers": 0}},
    "small_buckets": {**MLP, "comm": {"bucket_mib": 0.01}},
}  # fmt: skip


def train(ranks: RankPool, case: str, world_size: int) -> Run:
    return ranks.train(world_size, **CASES[case])


every_case = pytest.mark.parametrize("case", CASES)
several_workers = pytest.mark.parametrize("world_size", WORLD_SIZES)


@several_workers
@every_case
def test_weights_have_the_same_bits_on_any_number_of_workers(ranks: RankPool, case: str, world_size: int) -> None:
    alone, here = train(ranks, case, 1), train(ranks, case, world_size)
    assert here.result["weights_sha256"] == alone.result["weights_sha256"]
    assert identical(here.exported, alone.exported)
    assert all(identical(here.final(rank), alone.final()) for rank in range(world_size))
    assert not identical(alone.final(), alone.initial())


@several_workers
@every_case
def test_every_figure_that_is_not_a_time_is_the_same(ranks: RankPool, case: str, world_size: int) -> None:
    alone, here = train(ranks, case, 1), train(ranks, case, world_size)
    assert metrics(here.folder / "run") == metrics(alone.folder / "run")
    assert here.result["test"] == alone.result["test"]
    assert {line["split"] for line in metrics(here.folder / "run")} >= {"train"}


def test_without_shards_the_bits_depend_on_the_number_of_workers(ranks: RankPool) -> None:
    """Otherwise the tests above would hold by chance."""
    settings = {**CNN, "batch": {"global_batch_size": 35}}
    assert not identical(ranks.train(1, **settings).exported, ranks.train(3, **settings).exported)


def test_shards_form_the_batches_of_the_same_samples(ranks: RankPool) -> None:
    whole = ranks.train(1, **{**CNN, "batch": {"global_batch_size": 35}})
    assert train(ranks, "cnn", 3).global_batches() == whole.global_batches()


def test_a_run_goes_on_on_other_numbers_of_workers_with_the_same_bits(ranks: RankPool) -> None:
    """4 -> 2 -> 3 -> 4: each part goes on from a checkpoint of the one before, between two lines of the log."""
    settings = {**MLP, "checkpoint": {"every_steps": 1, "keep": 10}, "train": {"epochs": 3, "log_every_steps": 4}}
    folder = ranks.folder_for_job()
    resume = "never"
    ended = []
    for step, world_size in enumerate((4, 2, 3, 4, 1)):
        run_dir = folder / str(step)
        ended += ranks.call(
            "train_from", world_size, run_dir=str(run_dir), sections=settings, resume=resume, share_bytes=1 << 20
        )
        resume = str(run_dir / f"checkpoints/step_{step + 1:08d}")
    alone = ranks.train(1, **settings)
    assert set(ended) == {alone.result["weights_sha256"]}
    for step in range(5):
        lines = [line for line in metrics(alone.folder / "run") if line["step"] > step]
        assert metrics(folder / str(step)) == lines


def test_a_step_that_is_not_finite_is_skipped_alike(ranks: RankPool) -> None:
    settings = {
        **CNN, "data": {"name": "rank_parts:digits", "kwargs": {"train": 60}, "split": "official"},
        "model": {"name": "mnist_mlp"}, "optim": {"name": "sgd", "lr": 1.0e30},
        "batch": {**BATCH, "global_batch_size": 9},
        "train": {"max_steps": 4, "nonfinite": "skip", "nonfinite_retries": 9},
    }  # fmt: skip
    runs = [ranks.train(world_size, **settings) for world_size in (1, 3)]
    skipped = [(run.folder / "run/nonfinite.jsonl").read_text().splitlines() for run in runs]
    steps = [[{**json.loads(line), "time": 0} for line in lines] for lines in skipped]
    assert steps[0] == steps[1] != []
    assert identical(runs[0].exported, runs[1].exported)


def verify(ranks: RankPool, world_size: int, threads: dict[str, int], **kwargs: int) -> list[str]:
    """Train against the digests of a sound run on 1 worker; what ended each rank, or nothing."""
    network = {"name": "rank_parts:DamagedNet", "channels_last": True}
    settings = {**CNN, "model": network, "train": {"max_steps": 5, "record_digests": True}}
    recorded = ranks.train(1, **settings).folder / "run"
    faulty = {**settings, "model": {**network, "kwargs": kwargs}}
    run_dir = str(ranks.folder_for_job() / "run")
    return ranks.call(
        "verify", world_size, run_dir=run_dir, sections=faulty, verify_against=str(recorded), threads=threads
    )


@several_workers
def test_a_sound_run_has_the_digests_of_the_other(ranks: RankPool, world_size: int) -> None:
    assert verify(ranks, world_size, {}) == [""] * world_size


def test_a_rank_with_another_number_of_threads_is_found_in_the_first_step(ranks: RankPool) -> None:
    ended = verify(ranks, 2, {"1": 2})
    (found,) = [one for one in ended if one.startswith("IntegrityError")] or [""]
    assert "in step 1 the gradient of 'features." in found, ended
    assert "The weights after step 0 were the same." in found


@pytest.mark.parametrize(
    ("bit", "what"),
    [(0, "after step 3 'read_out.scores.weight' differs"), (20, "in step 3 the gradient of 'features.")],
    ids=["too_small_for_the_gradient", "large"],
)
def test_a_flipped_bit_is_found_and_named(ranks: RankPool, bit: int, what: str) -> None:
    """Rank 1 has 4 of the 8 shards: its ninth forward pass is the first of step 3."""
    ended = verify(ranks, 2, {}, flips_at=9, bit=bit)
    (found,) = [one for one in ended if one.startswith("IntegrityError")] or [""]
    assert what in found, ended
    assert "The weights after step 2 were the same" in found or "though the gradients of the step are the same" in found
    assert "Both say the same of where they run." in found
