"""The programs in examples/ that no other test runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .commands import REPOSITORY, run, train_command


def test_a_config_names_its_own_network_and_dataset(tmp_path: Path) -> None:
    for name in ("own_network.yaml", "stripes.py"):
        shutil.copy(REPOSITORY / "examples" / name, tmp_path)
    outcome = run(train_command("workers", ["own_network.yaml", "--run-dir", "run"]), tmp_path)
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run/result.json").read_text())["test"]["accuracy"] > 0.95


def test_every_example_is_in_the_list() -> None:
    listed = (REPOSITORY / "examples/README.md").read_text(encoding="utf-8")
    for path in (REPOSITORY / "examples").iterdir():
        assert path.name in listed or path.name in ("README.md", "__pycache__")
