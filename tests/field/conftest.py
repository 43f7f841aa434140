"""What the field tests share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from disttrain.log import log

from .trees import save_classifier


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What has been warned of so far."""
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.WARNING, logger="disttrain")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory for 6x6 RGB pictures of `cat` and `dog`."""
    return save_classifier(tmp_path_factory.mktemp("model") / "model", channels=3)
