"""What the field tests share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from disttrain.config import build_config
from disttrain.log import log
from disttrain.models.build import build_model
from disttrain.models.model_dir import ModelSpec, save_model_dir

from .trees import CAT_DOG


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What has been warned of so far."""
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.WARNING, logger="disttrain")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory for 6x6 pictures of `cat` and `dog`."""
    folder = tmp_path_factory.mktemp("model") / "model"
    sections = build_config({"model": {"name": "mnist_mlp"}}).model
    model = build_model(sections, (3, 6, 6), 2)
    spec = ModelSpec("mnist_mlp", {}, 0.0, (3, 6, 6), CAT_DOG, (128.0,) * 3, (64.0,) * 3)
    save_model_dir(folder, model, spec)
    return folder
