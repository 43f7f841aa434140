"""The programs in examples/ that no other test runs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.long
def test_the_notebook_trains_and_shows_curves_mistakes_and_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    folder = tmp_path / "examples"
    folder.mkdir()
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("EPOCHS", "2")
    monkeypatch.delenv("PLANESNET", raising=False)
    # Nothing of the user's Jupyter: neither its settings nor its history file.
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(REPOSITORY / "examples/planesnet.ipynb", as_version=4)
    train, *cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len([line for line in train.source.splitlines() if line.strip()]) <= 9
    assert not any(cell.outputs for cell in (train, *cells))
    client = NotebookClient(notebook, timeout=600, startup_timeout=240, resources={"metadata": {"path": str(folder)}})
    client.create_kernel_manager()
    assert client.km is not None
    client.km.kernel_spec.argv[0] = sys.executable
    client.execute()
    result = json.loads((folder / "runs/notebook/result.json").read_text())
    curves, mistakes, files, arrays, _ = cells
    assert "test: accuracy" in printed(train)
    assert shown(curves).count("<svg") == 4
    count = result["test"]["count"]
    wrong = count - round(count * result["test"]["accuracy"])
    assert f"{wrong} of {count} chips" in printed(mistakes)
    assert shown(mistakes).count("<figure") == min(12, wrong)
    assert printed(files).startswith("path,label,probability,p_no-plane,p_plane,")
    assert len(printed(files).splitlines()) == 7
    assert len(printed(arrays).splitlines()) == 6
    assert (folder / "runs/notebook/report.html").stat().st_size > 20_000


def printed(cell: Any) -> str:
    """What a cell of a notebook has written."""
    return "".join(one["text"] for one in cell.outputs if one["output_type"] == "stream")


def shown(cell: Any) -> str:
    """What a cell of a notebook has shown as HTML."""
    return "".join(one["data"].get("text/html", "") for one in cell.outputs if "data" in one)
