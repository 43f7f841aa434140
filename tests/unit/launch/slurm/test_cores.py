"""Cores of one task of a Slurm step."""

from __future__ import annotations

import pytest

from disttrain.launch.slurm.cores import cores_of_task


@pytest.mark.parametrize(
    ("environ", "mask", "tasks", "cores"),
    [
        ({"SLURM_CPUS_PER_TASK": "4"}, 16, 2, 4),
        ({"SLURM_CPUS_PER_TASK": "4"}, 2, 2, 2),
        ({"SLURM_CPUS_ON_NODE": "8"}, 8, 2, 4),
        ({"SLURM_CPUS_ON_NODE": "8"}, 64, 2, 4),
        ({"SLURM_CPUS_ON_NODE": "8"}, 4, 2, 4),
        ({"SLURM_CPUS_ON_NODE": "2"}, 2, 4, 1),
        ({"SLURM_CPUS_PER_TASK": "many"}, 6, 2, 3),
        ({}, 1, 4, 1),
    ],
    ids=["asked", "fewer there", "shared", "not confined", "bound", "too few", "no number", "nothing said"],
)
def test_a_task_has_what_was_asked_for_it_or_its_part_of_the_node(
    environ: dict[str, str], mask: int, tasks: int, cores: int
) -> None:
    assert cores_of_task(environ, mask, tasks) == cores
