"""`launchers/kubernetes.sh`: the same arguments for every kind, and mistakes before anything is submitted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from disttrain.commands import kubernetes
from disttrain.errors import ConfigError
from disttrain.kubernetes.manifests import Manifests, at
from disttrain.kubernetes.render import KINDS
from disttrain.kubernetes.trainings import Training, gpus_of, trainings

from .overlays import REPOSITORY

_DATA = "data.path=/data/planesnet.zip"
_CONFIG = str(REPOSITORY / "configs/planesnet.yaml")


def _submit(capsys: pytest.CaptureFixture[str], *words: str) -> Manifests:
    assert kubernetes.start(["submit", "--dry-run", *words]) == 0
    return Manifests(list(yaml.safe_load_all(capsys.readouterr().out)))


def _training(found: Manifests) -> Training:
    (one,) = trainings(found)
    return one


@pytest.mark.parametrize("kind", KINDS)
def test_pods_gpus_image_and_overrides_arrive_in_every_kind(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    image = "registry.example.com/disttrain-train:7"
    options = ["--kind", kind, "--workers", "3", "--gpus", "4", "--image", image, "--name", "mine"]
    found = _submit(capsys, *options, _CONFIG, _DATA, "train.epochs=3")
    one = _training(found)
    assert (one.nodes, one.processes, one.run_dir) == (3, "4", "/runs/mine")
    assert {gpus_of(pod, one.manifest) for pod in one.pods} == {4}
    assert one.words[-2:] == (_DATA, "train.epochs=3")
    images = {container["image"] for pod in found.pods() for container in pod.containers}
    assert images == {image}
    config = found.named("ConfigMap", "mine-config")
    assert config is not None
    assert config["data"]["config.yaml"] == Path(_CONFIG).read_text(encoding="utf-8")
    assert "train" not in {at(manifest, "metadata", "name") for manifest in found.all}


@pytest.mark.parametrize("kind", KINDS)
def test_one_pod_on_the_cpu_is_the_same_command(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = _training(_submit(capsys, "--kind", kind, "--workers", "1", "--gpus", "0", _CONFIG, _DATA))
    assert (one.nodes, one.processes, one.run_dir) == (1, "1", "/runs/planesnet")
    assert {gpus_of(pod, one.manifest) for pod in one.pods} == {0}


def test_options_of_train_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    one = _training(_submit(capsys, _CONFIG, "--run-dir", "/runs/other", "--resume", "never", _DATA))
    assert one.run_dir == "/runs/other"
    assert one.words[1:] == ("--run-dir", "/runs/other", "--resume", "never", _DATA)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--workers", "999", _CONFIG, _DATA], "global_batch_size=128 is smaller than world_size=999"),
        (["--name", "x" * 70, _CONFIG, _DATA], "63 is the longest"),
        (["--name", "UPPER", _CONFIG, _DATA], "must begin with a letter"),
        ([_CONFIG, "data.path=chips.zip"], "lies in no volume"),
        ([_CONFIG, _DATA, "train.epoch=3"], "Did you mean 'epochs'"),
        ([_CONFIG, _DATA, "--workers", "2"], "--workers before CONFIG"),
        (["nowhere.yaml"], "cannot read the config file"),
        ([], "no config file"),
    ],
)
def test_a_mistake_is_told_before_anything_is_submitted(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        kubernetes.start(["submit", "--dry-run", *words])
    assert says in f"{caught.value}\n{capsys.readouterr().err}"


def test_the_launcher_hands_the_exit_code_on() -> None:
    script = str(REPOSITORY / "launchers/kubernetes.sh")
    done = subprocess.run([script, "--dry-run", _CONFIG, "data.nam=x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Did you mean 'name'" in done.stderr
