"""Telemetry, trackers and traces of a real run of two ranks; GPUs by a stand-in for the C library NVML."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .commands import DISTTRAIN, REPOSITORY, run

STEPS = 24
TRACKERS = ["telemetry.trackers=[tensorboard, mlflow, wandb]", "telemetry.project=test"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that is told to every tracker, and that went on once: stopped at half of its steps."""
    folder = tmp_path_factory.mktemp("tracked")
    command = [
        *DISTTRAIN, "train", str(REPOSITORY / "configs/synthetic_planes.yaml"), "--workers", "2", "--run-dir", "run",
        "data.kwargs={count: 600}", "batch.global_batch_size=16", "train.log_every_steps=4", *TRACKERS,
        "telemetry.every_s=0.05", "train.profile_steps=[3, 4]", "checkpoint.every_steps=12",
    ]  # fmt: skip
    for more in (["train.max_steps=12"], [f"train.max_steps={STEPS}", "--accept-changed-config"]):
        (folder / "run/result.json").unlink(missing_ok=True)
        outcome = run([*command, *more], folder)
        assert outcome.code == 0, outcome.err
        assert "is told no more" not in outcome.err
        assert "is not told" not in outcome.err
        assert "is left behind" not in outcome.err
    return folder / "run"


def lines(run_dir: Path, split: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [one for one in found if one["split"] == split]


def train_losses(run_dir: Path) -> Any:
    """By step, to the precision of TensorBoard's floats."""
    return pytest.approx({one["step"]: one["loss"] for one in lines(run_dir, "train")}, rel=1e-5)


def test_every_rank_tells_of_its_process_and_one_of_the_node(run_dir: Path) -> None:
    found = lines(run_dir, "telemetry")
    assert {one["rank"] for one in found} == {0, 1}
    assert all(one["rss_mib"] > 50 for one in found)
    assert {one["rank"] for one in found if "node_memory_percent" in one} == {0}
    assert not [one for one in found if any(key.startswith("gpu_") for key in one)] or shutil.which("nvidia-smi")
    assert len({(one["rank"], one["time"]) for one in found}) == len(found)


def test_a_line_has_the_parts_of_a_step(run_dir: Path) -> None:
    for line in lines(run_dir, "train"):
        parts = line["step_ms"]
        assert set(parts) == {"data", "forward", "backward", "allreduce", "optimizer", "logging"}
        assert all(value >= 0 for value in parts.values())
        assert parts["forward"] > 0
        assert parts["backward"] > 0
        times = line["step_percentiles_ms"]
        assert 0 < times["p50"] <= times["p95"] <= times["max"]
    result = json.loads((run_dir / "result.json").read_text())
    assert 0 < result["step_ms"]["p50"] <= result["step_ms"]["p95"] <= result["step_ms"]["p99"]


def test_the_exchange_of_gradients_is_split_into_what_backward_hides_and_what_ranks_wait_for(run_dir: Path) -> None:
    found = [line["exchange_ms"] for line in lines(run_dir, "train") if "exchange_ms" in line]
    assert len(found) >= 2
    for times in found:
        assert 0 < times["total"] == pytest.approx(times["hidden"] + times["exposed"], abs=1e-3)
        assert times["hidden"] >= 0


def test_the_profiler_writes_a_trace_for_each_rank(run_dir: Path) -> None:
    for rank in (0, 1):
        with gzip.open(run_dir / f"profile/rank_{rank}.json.gz", "rt") as file:
            events = json.load(file)["traceEvents"]
        assert [one for one in events if one.get("name") == "aten::conv2d"]


def test_tensorboard_reads_what_was_told(run_dir: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run_dir / "tensorboard"))
    read.Reload()
    assert {one.step: one.value for one in read.Scalars("train/loss")} == train_losses(run_dir)
    assert read.Scalars("telemetry/1/rss_mib")
    assert len(read.Scalars("test/accuracy")) == 2


def test_mlflow_reads_one_run_that_went_on(run_dir: Path) -> None:
    from mlflow.tracking import MlflowClient

    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    try:
        client = MlflowClient(tracking_uri=(run_dir.parent / "mlruns").as_uri())
        experiment = client.get_experiment_by_name("test")
        assert experiment is not None
        (found,) = client.search_runs([experiment.experiment_id])
        assert found.info.status == "FINISHED"
        assert found.data.params["optim.name"] == "adamw"
        told = client.get_metric_history(found.info.run_id, "train/loss")
    finally:
        del os.environ["MLFLOW_ALLOW_FILE_STORE"]
    assert {one.step: one.value for one in told} == train_losses(run_dir)


def test_wandb_has_offline_files_of_one_run(run_dir: Path) -> None:
    run_id = (run_dir / "wandb.txt").read_text().strip()
    files = list((run_dir / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert {one.stem for one in files} == {f"run-{run_id}"}
    assert wandb_losses(files) == train_losses(run_dir)


def wandb_losses(files: list[Path]) -> dict[int, float]:
    """The losses in W&B's files, by step."""
    from wandb.proto import wandb_internal_pb2

    found = {}
    for path in files:
        for data in wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            items = {one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in record.history.item}
            if "train/loss" in items:
                found[int(items["step"])] = items["train/loss"]
    return found


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Of a file in LevelDB's log format (7 bytes of W&B's own before it): blocks of 32 KiB, in them checksum, length,
    kind (whole, first, middle, last) and a piece of a record. W&B has no reader of it in Python."""
    at, block, pieces = 7, 32_768, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        pieces += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield pieces
            pieces = b""


def test_the_report_shows_the_machines(run_dir: Path, tmp_path: Path) -> None:
    outcome = run([*DISTTRAIN, "report", str(run_dir), "--no-predictions", "--output", "r.html"], tmp_path)
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "r.html").read_text()
    shown = ("memory of the rank, MiB", "ms per step", "ms of a step", "ms exchanging", "went on from step 12")
    for text in shown:
        assert text in page


NVML = """
import json, sys
from disttrain.telemetry.machine import GpuProbe
probes = [GpuProbe(uuid) for uuid in ("0", "GPU-1", "7")]
print(json.dumps([[one.sample(), one.energy_j(), one.energy_j()] for one in probes]))
for one in probes: one.close()
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the stand-in for NVML cannot be built")
def test_a_gpu_is_found_by_its_uuid_and_what_it_does_not_tell_is_absent(tmp_path: Path) -> None:
    source = Path(__file__).with_name("nvml.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(tmp_path / "libnvidia-ml.so.1"), str(source)], check=True)
    libraries = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("LD_LIBRARY_PATH"))))
    outcome = run([sys.executable, "-c", NVML], tmp_path, {"LD_LIBRARY_PATH": libraries})
    assert outcome.code == 0, outcome.err
    (first, before, after), (second, _, _), (unknown, energy, _) = json.loads(outcome.out)
    assert first == {
        "gpu_utilisation_percent": 90, "gpu_memory_mib": 0.0, "gpu_power_w": 250.5, "gpu_temperature_c": 61,
    }  # fmt: skip
    assert after - before == pytest.approx(1.5)
    assert second["gpu_memory_mib"] == 8192
    assert second["gpu_slowed_by"] == ["heat (hardware)"]
    assert "gpu_temperature_c" not in second
    assert (unknown, energy) == ({}, None)


def test_prometheus_finds_the_last_figures(tmp_path: Path) -> None:
    from disttrain.telemetry.trackers.base import RunInfo
    from disttrain.telemetry.trackers.prometheus import Prometheus

    tracker = Prometheus(RunInfo(tmp_path, "one", "p", {}), port=0)
    try:
        for step, loss in ((1, 0.5), (2, 0.25)):
            tracker.log(step, 0.0, {"train/loss": loss, "telemetry/3/gpu_power_w": 200.0})
        with urllib.request.urlopen(f"http://127.0.0.1:{tracker.port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    finally:
        tracker.close("finished", {})
    assert 'disttrain_train_loss{run="one"} 0.25' in text
    assert 'disttrain_gpu_power_w{rank="3",run="one"} 200.0' in text
