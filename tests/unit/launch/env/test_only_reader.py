"""Only `launch.env` reads the variables of launchers."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import disttrain

RANK_NAME = re.compile(
    r"(RANK|LOCAL_RANK|GROUP_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|TORCHELASTIC_\w+|PET_\w+|OMPI_\w+|PMIX?_\w+|"
    r"SLURM_(PROCID|LOCALID|NODEID|NTASKS|STEP_\w+)|HOROVOD_(LOCAL_|CROSS_)?(RANK|SIZE))"
)


def rank_variable_reads(source: str) -> list[str]:
    """Rank variables that the source looks up: X["RANK"], X.get("RANK"), getenv("RANK"), "RANK" in X."""
    found: list[Any] = []
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Load):
            found.append(part.slice)
        elif isinstance(part, ast.Call) and part.args:
            name = part.func.attr if isinstance(part.func, ast.Attribute) else getattr(part.func, "id", "")
            found += [part.args[0]] if name in ("get", "getenv", "pop") else []
        elif isinstance(part, ast.Compare):
            found.append(part.left)
    values = [part.value for part in found if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return [value for value in values if RANK_NAME.fullmatch(value)]


def test_the_search_for_rank_variables_finds_each_way_of_reading() -> None:
    source = 'os.environ["RANK"]; os.environ.get("LOCAL_RANK"); getenv("SLURM_PROCID"); "PET_NNODES" in e; e["A"]'
    assert sorted(rank_variable_reads(source)) == ["LOCAL_RANK", "PET_NNODES", "RANK", "SLURM_PROCID"]


def test_no_other_module_reads_rank_variables() -> None:
    root = Path(disttrain.__file__).parent
    for path in root.rglob("*.py"):
        if path.relative_to(root).parts[:2] != ("launch", "env"):
            assert not rank_variable_reads(path.read_text(encoding="utf-8")), path
