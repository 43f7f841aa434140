"""tests/forked.py itself: which commands are forked, and that these are what new ones would be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .commands import DISTTRAIN, DISTTRAIN_ANEW, finish, start


@pytest.mark.parametrize(
    ("command", "variables", "is_forked", "code"),
    [
        (DISTTRAIN, {}, True, 2),
        (DISTTRAIN, {"HOME": "/nowhere", "PYTHONPATH": "here"}, True, 2),
        (DISTTRAIN, {"PYTHONPATH": "here:no_torch"}, False, 1),
        (DISTTRAIN, {"OMP_NUM_THREADS": "2"}, False, 2),
        (DISTTRAIN_ANEW, {}, False, 2),
        ([sys.executable, "-c", "import sys; sys.exit(2)"], {}, False, 2),
    ],
)
def test_a_command_is_forked_unless_a_new_process_would_import_something_else(
    tmp_path: Path, command: list[str], variables: dict[str, str], is_forked: bool, code: int
) -> None:
    for name in ("here/mine.py", "no_torch/torch.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    if "PYTHONPATH" in variables:
        paths = variables["PYTHONPATH"].split(":")
        variables = {**variables, "PYTHONPATH": ":".join(str(tmp_path / one) for one in paths)}
    process = start([*command, "data", "info", "config.yaml"], tmp_path, variables)
    ended = finish(process)
    assert (type(process) is not subprocess.Popen) == is_forked
    assert (ended.code, ended.out) == (code, "")
    assert ("config.yaml" in ended.message) == (code == 2 and command[1] != "-c")


def test_a_forked_command_has_the_folder_and_the_streams_that_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {name: synthetic_planes, kwargs: {count: 64}}\n")
    ended = finish(start([*DISTTRAIN, "data", "info", "config.yaml", "--json"], tmp_path))
    assert (ended.code, ended.err) == (0, "")
    assert '"count": 64' in ended.out or '"count":64' in ended.out
