"""NCCL's flight recorder: what `disttrain.comm.flight_recorder` switches on is recorded, and its dump can be read."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason=f"no GPU: torch {torch.__version__} sees none on this machine"
)

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from disttrain.comm import flight_recorder

logs = Path(sys.argv[1])
flight_recorder.enable(logs)
torch.cuda.set_device(0)
dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
numbers = torch.ones(3, device="cuda")
for _ in range(4):
    dist.all_reduce(numbers)
torch.cuda.synchronize()
print(flight_recorder.dump(logs, 0))
dist.destroy_process_group()
"""


def test_nccls_operations_are_in_the_dump(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = tmp_path / "flight_recorder_rank_0"
    assert done.stdout.split() == [str(path)]
    entries = pickle.loads(path.read_bytes())["entries"]
    names = [entry["profiling_name"] for entry in entries]
    assert sum(name.startswith("nccl:all_reduce") for name in names) == 4, names
    tool = "from torch.distributed.flight_recorder.fr_trace import main; main()"
    command = [sys.executable, "-c", tool, str(tmp_path), "--prefix", "flight_recorder_rank_"]
    read = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert read.returncode == 0, read.stderr
