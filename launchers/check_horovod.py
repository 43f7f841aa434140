"""One of the two processes of install_horovod.sh's check: an allreduce whose result is known."""

from __future__ import annotations

import sys

import horovod.torch as hvd
import torch

hvd.init()
values = torch.arange(1000, dtype=torch.float32) + hvd.rank()
total = hvd.allreduce(values, op=hvd.Sum)
expected = sum(torch.arange(1000, dtype=torch.float32) + rank for rank in range(hvd.size()))
controller = "MPI" if hvd.mpi_enabled() else "gloo"
if hvd.size() != 2 or not torch.equal(total, expected):
    sys.exit(
        f"{hvd.size()} processes through {controller}: the sum is {total[:4].tolist()}, not {expected[:4].tolist()}"
    )
operations = "NCCL and " if hvd.nccl_built() else ""
sys.stdout.write(
    f"allreduce through {controller} is right (built with {operations}{'MPI and ' if hvd.mpi_built() else ''}gloo)\n"
)
hvd.shutdown()
