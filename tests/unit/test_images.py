"""Dockerfile.cuda and the lock files say the same as setup.cfg, and name no index."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
_TRAIN = ("gpu", "scenes", "tensorboard", "prometheus", "report")
_EXTRAS = {"torch": (), "train": _TRAIN, "tune": (*_TRAIN, "tune"), "serve": ("scenes", "serve")}


def _locked(image: str) -> dict[str, str]:
    text = (REPOSITORY / f"requirements/{image}.txt").read_text(encoding="utf-8")
    return {name.lower().replace("_", "-"): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.M)}


def _dockerfile() -> str:
    return (REPOSITORY / "Dockerfile.cuda").read_text(encoding="utf-8")


@pytest.mark.parametrize("image", _EXTRAS)
def test_a_lock_file_has_all_that_setup_cfg_asks_for(image: str) -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    texts = [setup["options"]["install_requires"], *(setup["options.extras_require"][one] for one in _EXTRAS[image])]
    asked = [Requirement(line) for text in texts for line in text.splitlines() if line and not line.startswith("#")]
    found = _locked(image)
    if image == "serve":  # Dockerfile.cuda names them, since their builds for the CPU lie elsewhere
        found |= dict(re.findall(r"\b(torch|torchvision)==([^ \"]+)", _dockerfile()))
    missing = [str(one) for one in asked if not one.specifier.contains(found.get(one.name.lower(), "0"))]
    assert missing == []


def test_the_images_share_one_torch_and_every_version_has_its_hash() -> None:
    torch = _locked("torch")
    for image in ("train", "tune"):
        assert torch.items() <= _locked(image).items()
    for image in _EXTRAS:
        text = (REPOSITORY / f"requirements/{image}.txt").read_text(encoding="utf-8")
        assert re.findall(r"^\S+==\S+$", text, re.M) == []  # a version whose line does not go on
        assert "://" not in text


def test_the_dockerfile_names_no_index_and_ends_every_image_without_root() -> None:
    text = _dockerfile()
    assert set(re.findall(r"://([\w.]+)", text)) == {"127.0.0.1"}  # of the health check
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", text, re.M | re.S))
    for target in ("serve", "train", "tune"):
        assert "USER 10001:10001" in stages[target].splitlines()
        assert "org.opencontainers.image.version" in stages[target]
    assert "HEALTHCHECK" in stages["serve"]
