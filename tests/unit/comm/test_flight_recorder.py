"""torch's flight recorder, here of gloo; of NCCL in tests/gpu."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from disttrain.comm import flight_recorder

from ..helpers import run_python

VARIABLES = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_DUMP_ON_TIMEOUT", "TORCH_FR_DUMP_TEMP_FILE")
ENABLE = """
import os, sys, torch
from pathlib import Path
from disttrain.comm import flight_recorder
torch.cuda.is_available = lambda: True  # all that is asked of it
flight_recorder.enable(Path("logs"))
print([os.environ.get(name) for name in {names!r}])
"""


def test_the_recorder_is_switched_on_and_its_files_go_to_the_logs(tmp_path: Path) -> None:
    printed = run_python(ENABLE.format(names=VARIABLES)).stdout
    assert printed.startswith("['2000', '1', '/")
    assert printed.endswith("/logs/flight_recorder_rank_']\n")


def test_what_the_user_has_set_stands_under_its_older_name_too() -> None:
    names = ("TORCH_NCCL_TRACE_BUFFER_SIZE", *VARIABLES)
    code = "import os; os.environ['TORCH_NCCL_TRACE_BUFFER_SIZE'] = '7'\n" + ENABLE.format(names=names)
    assert run_python(code).stdout.startswith("['7', None, '1', ")


@pytest.mark.skipif(
    not hasattr(torch._C._distributed_c10d, "_dump_fr_trace"), reason="this torch does not record gloo's operations"
)
def test_a_dump_of_gloo_is_read_by_torchs_own_tool_which_names_the_rank_that_is_missing(tmp_path: Path) -> None:
    code = f"""
import sys, torch
import torch.distributed as dist
from pathlib import Path
from disttrain.comm import flight_recorder
rank = int(sys.argv[1])
store = dist.FileStore({str(tmp_path / "store")!r}, 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
numbers = torch.ones(3)
dist.all_reduce(numbers)
pending = dist.all_reduce(numbers, async_op=True) if rank == 0 else None
print(flight_recorder.dump(Path({str(tmp_path)!r}), rank), flush=True)
store.set(f"dumped {{rank}}", "")
store.wait(["dumped 0", "dumped 1"])
import os; os._exit(0)
"""
    ranks = [
        subprocess.Popen([sys.executable, "-c", code, str(k)], stdout=subprocess.PIPE, text=True) for k in range(2)
    ]
    paths = [one.communicate(timeout=60)[0].split()[-1] for one in ranks]  # gloo of torch 2.9 greets first
    if paths == ["None", "None"]:
        pytest.skip("this torch does not record gloo's operations")
    assert paths == [str(tmp_path / f"flight_recorder_rank_{k}") for k in range(2)]
    name, folder, *options = flight_recorder.how_to_read(Path(paths[0])).split()
    assert name == "torchfrtrace"
    tool = "from torch.distributed.flight_recorder.fr_trace import main; main()"
    read = subprocess.run(
        [sys.executable, "-c", tool, folder, *options], capture_output=True, text=True, timeout=60, check=False
    )
    assert read.returncode == 0, read.stderr
    assert "missing ranks: {1}" in read.stdout + read.stderr


def test_where_nothing_was_recorded_there_is_no_file(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from disttrain.comm import flight_recorder
print(flight_recorder.dump(Path({str(tmp_path)!r}), 0))
"""
    assert run_python(code).stdout == "None\n"
    assert list(tmp_path.iterdir()) == []
