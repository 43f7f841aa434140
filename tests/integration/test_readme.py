"""Every command in the README that one machine can run is run as it stands there, in the order in which it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
TIMEOUT_S = 1800


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def run_shell(script: str, folder: Path) -> str:
    """Standard output of a script that succeeds, with this interpreter's programs first on the path."""
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHON": sys.executable}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def readme_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader of the README types its commands."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("configs", "launchers"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def test_make_train_ends_with_a_test_accuracy_above_97_percent_and_names_the_model(readme_folder: Path) -> None:
    run_dir = readme_folder / "runs/first"
    out = run_shell(f"make --no-print-directory train RUN_DIR={run_dir}", REPOSITORY)
    accuracy = re.search(r"accuracy ([0-9.]+)%", out)
    assert accuracy is not None, out
    assert float(accuracy[1]) > 97
    assert out.rstrip().endswith(f"model: {run_dir}/model")
    assert (run_dir / "model/model.safetensors").is_file()


@pytest.mark.usefixtures("real_data")
def test_the_commands_of_the_readme_run_as_they_stand_there(readme_folder: Path) -> None:
    """The README's first training is the one of `make train`: where that has run, it finds a finished run."""
    scripts = [block for block in blocks("sh") if not block.startswith("make")]
    assert len(scripts) >= 3
    for script in scripts:
        run_shell(script, readme_folder)
    rows = (readme_folder / "predictions.csv").read_text().splitlines()
    assert rows[0] == "path,label,probability,p_no-plane,p_plane,error"
    assert len(rows) == 501


def test_the_python_example_of_the_readme_is_the_one_that_is_tested() -> None:
    example = (REPOSITORY / "examples/rings.py").read_text(encoding="utf-8")
    assert example.strip() in [block.strip() for block in blocks("python")]


def test_the_settings_in_the_readme_are_a_valid_config() -> None:
    import yaml

    from disttrain.config import build_config

    for block in blocks("yaml"):
        assert build_config(yaml.safe_load(block)).train.epochs == 10
