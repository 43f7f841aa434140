"""`make check-k8s`: the shipped overlays are right, and each mistake is told with its way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from disttrain.commands import kubernetes
from disttrain.config import load_config
from disttrain.errors import ConfigError
from disttrain.kubernetes import crds
from disttrain.kubernetes.check import check
from disttrain.kubernetes.manifests import Manifests, read
from disttrain.kubernetes.quantities import quantity
from disttrain.kubernetes.schemas import VERSIONS
from disttrain.tune.search_file import load_search
from disttrain.tune.space import parse_space
from disttrain.tune.trial_config import base_config

from .overlays import CRDS, OVERLAYS, REPOSITORY, Broken, broken, rendered

_NAMES = sorted(path.name for path in OVERLAYS.iterdir())


def _messages(found: Manifests) -> list[str]:
    return [f"{one.where}: {one.message}" for one in check(found, [CRDS])]


@pytest.mark.parametrize("overlay", _NAMES)
def test_a_shipped_overlay_has_nothing_wrong(overlay: str) -> None:
    assert _messages(rendered(overlay)) == []


@pytest.mark.parametrize("variant", broken(), ids=lambda one: f"{one.overlay}: {one.case}")
def test_a_mistake_is_found_and_nothing_else_is(variant: Broken) -> None:
    found, _ = variant.make()
    messages = _messages(found)
    assert messages
    assert any(variant.says in one for one in messages), messages
    assert len(messages) <= 3, messages


def test_rules_in_cel_are_looked_at_and_not_skipped() -> None:
    manifest = json.loads(json.dumps(rendered("trainjob").of("TrainJob")[0]))
    manifest["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    assert crds.errors(crds.load(CRDS), manifest) == []
    manifest["spec"]["managedBy"] = "me"
    errors = crds.errors(crds.load(CRDS), manifest)
    assert errors
    assert "could not be looked at" not in errors[0]


def test_definitions_are_the_operators_own_bytes() -> None:
    kinds = {kind for _, kind in crds.load(CRDS)}
    assert {"PyTorchJob", "TrainJob", "MPIJob", "ClusterTrainingRuntime", "TrainingRuntime", "RayJob"} <= kinds


def test_a_kind_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: a}\n", encoding="utf-8")
    assert "nothing is known of example.com/v1 Thing" in _messages(read([path]))[0]


def test_a_request_above_every_node_is_found() -> None:
    node = {"status": {"allocatable": {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "100Gi"}}}
    found = check(rendered("pytorchjob-gpu"), [CRDS], VERSIONS, [node])
    text = "\n".join(one.message for one in found)
    assert "the cluster has no GPUs" in text
    assert "asks for cpu 32, and the largest node has 8" in text
    large = {
        "status": {"allocatable": {"cpu": "64", "memory": "1Ti", "ephemeral-storage": "1Ti", "nvidia.com/gpu": "8"}}
    }
    assert check(rendered("pytorchjob-gpu"), [CRDS], VERSIONS, [node, large]) == []


@pytest.mark.parametrize(
    ("text", "value"), [("500m", 0.5), ("4Gi", 4 * 2**30), ("2", 2.0), (8, 8.0), ("1e3", 1e3), ("x", None)]
)
def test_amounts(text: object, value: float | None) -> None:
    assert quantity(text) == value


def test_the_shipped_config_is_that_of_the_repository() -> None:
    shipped = load_config(REPOSITORY / "k8s/components/config/config.yaml")
    changed = ["data.path=/data/planesnet.zip", "data.cache_dir=/data/cache", "checkpoint.every_steps=500"]
    assert shipped == load_config(REPOSITORY / "configs/planesnet.yaml", changed)


def test_the_shipped_searches_are_those_of_the_repository_and_fit_the_shipped_config() -> None:
    config = load_config(REPOSITORY / "k8s/components/config/config.yaml")
    own = load_search(REPOSITORY / "configs/search/asha.yaml")
    for path, gpus in (("k8s/base/tune/search.yaml", 0), ("k8s/overlays/tune-gpu/search.yaml", 1)):
        search = load_search(REPOSITORY / path)
        assert search.model_copy(update={"resources": own.resources}) == own
        assert search.resources.gpus_per_worker == gpus
        parse_space(search.space, base_config(config, search))


def _own_overlay(folder: Path, patch: str) -> Path:
    """As a user has it beside a copy of k8s/."""
    shutil.copytree(REPOSITORY / "k8s", folder / "k8s")
    own = folder / "mine"
    own.mkdir()
    (own / "kustomization.yaml").write_text(
        f"resources: [../k8s/overlays/job]\npatches:\n  - target: {{kind: Job}}\n    patch: |-\n      - {patch}\n",
        encoding="utf-8",
    )
    return own


def test_a_users_own_overlay_is_checked_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = _own_overlay(tmp_path, "{op: replace, path: /spec/parallelism, value: 1}")
    assert kubernetes.start(["check", str(own)]) == 2
    assert "Make the two equal" in capsys.readouterr().err
    right = _own_overlay(tmp_path / "right", "{op: replace, path: /spec/backoffLimit, value: 7}")
    assert kubernetes.start(["check", str(right)]) == 0
    assert capsys.readouterr().out.startswith("ok ")


def test_an_overlay_that_kustomize_refuses_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [nothing.yaml]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"kustomize refuses .*nothing\.yaml"):
        read([tmp_path])


def test_every_case_of_a_broken_file_is_shaped_alike() -> None:
    for path in (Path(__file__).parent / "broken").glob("*.yaml"):
        for one in yaml.safe_load(path.read_text(encoding="utf-8")):
            assert one.keys() <= {"case", "of", "patch", "says", "server"}
