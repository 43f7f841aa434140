"""What only a GPU can show. One GPU is enough, but for the last test."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from disttrain.config.sections import DataConfig
from disttrain.data.transform import Augmentation, ImageTransform
from disttrain.models.batchnorm import synchronise_batchnorm

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason=f"no GPU: torch {torch.__version__} sees none on this machine"
)

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = str(REPOSITORY / "configs" / "synthetic_planes.yaml")
SMALL = ("data.kwargs.count=2000", "train.epochs=2", "batch.global_batch_size=64")

Disttrain = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def disttrain(isolated_cache: Path) -> Disttrain:
    """Runs a command of its own process on the first GPU; what it prints as JSON."""

    def run(*arguments: str | Path) -> dict[str, Any]:
        environ = os.environ | {
            "PYTHONPATH": str(REPOSITORY),
            "CUDA_VISIBLE_DEVICES": os.environ.get("DISTTRAIN_TEST_GPUS", "0"),
        }
        command = [sys.executable, "-m", "disttrain", *map(str, arguments), "--quiet"]
        done = subprocess.run(
            command, cwd=isolated_cache, env=environ, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr
        printed: dict[str, Any] = json.loads(done.stdout)
        return printed

    return run


@pytest.fixture(scope="module")
def train(disttrain: Disttrain, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Trains synthetic planes on the GPU; the same training is done once. Its result and its run directory."""
    done: dict[tuple[str, ...], tuple[dict[str, Any], Path]] = {}

    def run(*fields: str, options: tuple[str, ...] = ()) -> tuple[dict[str, Any], Path]:
        key = (*options, *fields)
        if key not in done:
            folder = tmp_path_factory.mktemp("runs") / "run"
            command = ["train", CONFIG, "--run-dir", str(folder), "--json", *options, "train.device=cuda", *fields]
            done[key] = (disttrain(*command), folder)
        return done[key]

    return run


Train = Callable[..., tuple[dict[str, Any], Path]]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_three_epochs_on_a_gpu_reach_95_percent(train: Train, precision: str) -> None:
    result, run_dir = train("train.epochs=3", f"train.precision={precision}")
    assert result["test"]["accuracy"] > 0.95
    assert json.loads((run_dir / "manifest.json").read_text())["device"].startswith("cuda")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_trained_on_a_gpu_evaluates_on_the_cpu_to_the_same_numbers(
    train: Train, disttrain: Disttrain, precision: str
) -> None:
    result, run_dir = train("train.epochs=3", f"train.precision={precision}")
    on_cpu = disttrain("evaluate", run_dir, "--device", "cpu")
    on_gpu = disttrain("evaluate", run_dir, "--device", "cuda")
    assert on_gpu["confusion_matrix"] == result["test"]["confusion_matrix"]
    # cuDNN's convolutions round to TF32: a sample on the very boundary may change sides.
    moved = np.abs(np.array(on_cpu["confusion_matrix"]) - np.array(on_gpu["confusion_matrix"])).sum() / 2
    assert on_cpu["count"] == on_gpu["count"]
    assert moved <= 2
    assert on_cpu["loss"] == pytest.approx(on_gpu["loss"], rel=5e-3)


def test_fp16_keeps_the_state_of_its_gradient_scaler(train: Train) -> None:
    _, run_dir = train("train.epochs=3", "train.precision=fp16")
    newest = run_dir / "checkpoints" / (run_dir / "checkpoints" / "latest").read_text().strip()
    values = [json.loads(file.read_text()) for file in newest.glob("*.json")]
    scaler = next(one["scaler"] for one in values if "scaler" in one)
    assert scaler["scale"] > 1


def test_a_compiled_network_trains_and_its_model_directory_loads_without_a_compiler(
    train: Train, disttrain: Disttrain
) -> None:
    result, run_dir = train(*SMALL, "model.compile=true")
    plain, _ = train(*SMALL)
    assert result["test"]["loss"] == pytest.approx(plain["test"]["loss"], rel=0.2)
    assert disttrain("evaluate", run_dir, "--device", "cpu")["count"] == result["test"]["count"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_channels_last_changes_the_memory_order_and_not_the_result(train: Train, precision: str) -> None:
    with_it, _ = train(*SMALL, f"train.precision={precision}", "model.channels_last=true")
    without, _ = train(*SMALL, f"train.precision={precision}", "model.channels_last=false")
    assert with_it["test"]["accuracy"] == pytest.approx(without["test"]["accuracy"], abs=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resume_mid_epoch_on_a_gpu_gives_the_same_weights_as_no_interruption(train: Train, precision: str) -> None:
    fields = (*SMALL, f"train.precision={precision}", "checkpoint.every_steps=10", "checkpoint.keep=100")
    whole, run_dir = train(*fields)
    assert whole["step"] > 20
    resumed, _ = train(*fields, options=("--resume", str(run_dir / "checkpoints" / "step_00000010")))
    assert resumed["weights_sha256"] == whole["weights_sha256"]


def test_training_twice_on_a_gpu_gives_the_same_weights(train: Train) -> None:
    first, _ = train(*SMALL)
    again, _ = train(*SMALL, options=("--resume", "never"))
    assert again["weights_sha256"] == first["weights_sha256"]


def test_streaming_to_a_gpu_gives_the_same_weights_as_samples_on_it(train: Train) -> None:
    on_device, _ = train(*SMALL, "data.placement=device")
    streamed, _ = train(*SMALL, "data.placement=stream")
    assert streamed["weights_sha256"] == on_device["weights_sha256"]


EVERYTHING = DataConfig(horizontal_flip=True, vertical_flip=True, quarter_turns=True, shift_px=3)


@pytest.mark.parametrize("data", [EVERYTHING, DataConfig(shift_px=2), DataConfig(quarter_turns=True)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_move_on_a_gpu_as_on_the_cpu(data: DataConfig, channels_last: bool) -> None:
    """With mean 0 and deviation 1 the batch holds the moved pixels' own values: equality is to the bit."""
    images = torch.randint(0, 256, (300, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    ids = torch.arange(1000, 1300)
    on_cpu = _transform(data, "cpu", channels_last)(images, ids, 4)
    on_gpu = _transform(data, "cuda", channels_last)(images.cuda(), ids.cuda(), 4)
    assert torch.equal(on_gpu.cpu(), on_cpu)
    assert not torch.equal(on_cpu, images.float())
    assert on_gpu.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_exposure_and_zoom_are_drawn_on_a_gpu_as_on_the_cpu() -> None:
    data = DataConfig(brightness=0.3, contrast=0.2, zoom=0.25)
    images = torch.randint(0, 256, (300, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    ids = torch.arange(300)
    batches = []
    for device in ("cpu", "cuda"):
        transform = dataclasses.replace(_transform(data, device), mean=(90.0, 100.0, 110.0), std=(50.0, 55.0, 60.0))
        batches.append(transform(images.to(device), ids.to(device), 2).cpu())
    torch.testing.assert_close(batches[0], batches[1], rtol=1e-5, atol=1e-5)  # a GPU fuses multiply and add


def _transform(data: DataConfig, device: str, channels_last: bool = False) -> ImageTransform:
    augmentation = Augmentation.build(data, 20, 20)
    return ImageTransform((0.0,) * 3, (1.0,) * 3, augmentation, 7, torch.device(device), channels_last)


def test_sync_batchnorm_on_a_gpu_is_torchs_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sequential(nn.BatchNorm2d(8)))
    converted = synchronise_batchnorm(model, torch.device("cuda"))
    assert isinstance(converted.get_submodule("1"), nn.SyncBatchNorm)
    assert isinstance(converted.get_submodule("2.0"), nn.SyncBatchNorm)


def test_a_network_with_sync_batchnorm_trains_on_a_gpu(train: Train) -> None:
    fields = ("model.name=torchvision:resnet18", "model.sync_batchnorm=true", "train.max_steps=5", "optim.lr=1.0e-4")
    result, _ = train(*SMALL, *fields)
    assert result["step"] == 5
    assert np.isfinite(result["test"]["loss"])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_with_shards_a_training_on_a_gpu_repeats_its_bits(train: Train, precision: str) -> None:
    fields = ("batch.shards=8", "model.dropout=0.2", "train.max_steps=20", f"train.precision={precision}")
    first, second = (train(*SMALL, *fields, options=options)[0] for options in ((), ("--resume", "never")))
    assert first["weights_sha256"] == second["weights_sha256"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no GPU for a second rank of NCCL")
def test_with_shards_two_gpus_give_the_bits_of_one(train: Train) -> None:
    """This file's commands see one GPU; these two see all."""
    fields = ("batch.shards=8", "model.dropout=0.2", "train.max_steps=20")
    alone, _ = train(*SMALL, *fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTTRAIN_TEST_GPUS", "0,1")
        both, _ = train(*SMALL, *fields, options=("--workers", "2"))
    assert both["weights_sha256"] == alone["weights_sha256"]


def test_the_parts_of_a_step_are_measured_by_the_clock_of_the_gpu(train: Train) -> None:
    result, run_dir = train(*SMALL, "train.log_every_steps=20")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    parts = [line["device_step_ms"] for line in lines if "device_step_ms" in line]
    assert parts
    assert all(one["forward"] > 0 and one["backward"] > 0 and one["optimizer"] > 0 for one in parts)
    longest = max(line["step_percentiles_ms"]["max"] for line in lines if line["split"] == "train")
    assert min(sum(one.values()) for one in parts) <= longest
    assert result["step_ms"]["p50"] <= result["step_ms"]["p99"]
