"""The figures that the README promises on real digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from .shipped_configs import train

pytestmark = pytest.mark.long


def test_the_784_512_10_network_reaches_98_2_percent_on_mnist(real_data: Path, tmp_path: Path) -> None:
    result = train("mnist_mlp", real_data / "mnist", tmp_path)
    assert result["test"]["count"] == 10_000
    assert result["test"]["accuracy"] >= 0.982


def test_the_cnn_reaches_99_4_percent_on_mnist(real_data: Path, tmp_path: Path) -> None:
    result = train("mnist_cnn", real_data / "mnist", tmp_path)
    assert result["test"]["accuracy"] >= 0.994
