"""What integration tests share: drawn chips and one trained model, made once a session, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import _commands_are_forked  # noqa: F401

from disttrain.data.tools import make_synthetic

from .bad_files import CONFIG, Place, link_all
from .commands import run, train_command

_BROWSER_LIMIT_MS = 120_000


@pytest.fixture(scope="session")
def many_chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 chips in PlanesNet's form. Treat as read-only."""
    folder = tmp_path_factory.mktemp("many") / "chips"
    make_synthetic(folder, 2000, seed=1)
    return folder


@pytest.fixture(scope="session")
def few_chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 chips in PlanesNet's form. Treat as read-only."""
    folder = tmp_path_factory.mktemp("few") / "chips"
    make_synthetic(folder, 300, seed=1)
    return folder


@pytest.fixture
def place(tmp_path: Path, few_chips: Path, many_chips: Path) -> Place:
    """A folder with a good config and good chips."""
    made = Place(tmp_path, many_chips)
    link_all(few_chips, made.chips)
    made.config(CONFIG)
    return made


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, few_chips: Path) -> Path:
    """The model of a short run on `few_chips`. Treat as read-only."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.yaml").write_text(CONFIG.replace("path: chips", f"path: {few_chips}"))
    outcome = run(train_command("alone", ["config.yaml", "--run-dir", "run"]), folder)
    assert outcome.code == 0, outcome.err
    return folder / "run" / "model"


@pytest.fixture(scope="session")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with which `import torch` fails."""
    folder = tmp_path_factory.mktemp("no_torch")
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise ImportError('torch was imported')\n")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright: `playwright.sync_api.Browser`. No longer than a file's tests: while it
    runs, asyncio is in use in this thread."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        started = driver.chromium.launch(executable_path=program, args=options, timeout=_BROWSER_LIMIT_MS)
        yield started
        started.close()
