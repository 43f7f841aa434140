"""Servers that are replaced, a disk that is full, and requests of every form that the OpenAPI document allows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from disttrain.files import replace_folder

from .commands import mounted
from .rolling import behind_nginx
from .serving import Clients, chips, form, other_model, serving, until


@pytest.mark.long
def test_servers_behind_nginx_are_replaced_and_their_model_is_switched_without_a_lost_request(
    tmp_path: Path, model_dir: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    other_model(model, tmp_path / "newer")
    with behind_nginx(model, tmp_path) as replicas, Clients(replicas.url, {}) as clients:
        until(lambda: len(clients.answers) > 20, "requests are answered")
        (first,) = replicas.versions()
        replicas.restart(0)
        replace_folder(tmp_path / "newer", model)
        until(lambda: first not in replicas.versions(), "the newer model serves")
        replicas.restart(1)
        seen = len(clients.answers)
        until(lambda: len(clients.answers) > seen + 20, "requests are answered")
    assert clients.failures == []
    assert len(set(clients.answers)) == 2
    assert clients.answers[-1] != first


def fill(folder: Path) -> None:
    """Leave no byte free."""
    block = 1 << 16
    with (folder / "filler").open("ab", buffering=0) as file:
        while block:
            try:
                file.write(bytes(block))
            except OSError:
                block //= 2


def test_a_disk_that_is_full_ends_no_server(tmp_path: Path, model_dir: Path) -> None:
    """Several processes add their figures up in memory maps: on a full disk a write to one would end the process."""
    with mounted(tmp_path / "disk", "size=2m") as disk:
        with serving(model_dir, "--processes", "2", folder=tmp_path, env={"TMPDIR": str(disk)}) as server:
            fill(disk)
            for count in range(1, 6):
                assert server.client.post("/v1/predict", files=form(chips(count))).status_code == 200
                assert server.client.post("/v1/predict", files=form([b"no image"])).status_code == 422
                assert server.client.get("/nothing").status_code == 404
            assert 'disttrain_images_total{outcome="unreadable"} 5.0' in server.client.get("/metrics").text
            outcome = server.stop()
        assert outcome.code == 0
        assert "has ended with" not in outcome.err


def test_requests_of_every_form_have_an_answer_of_the_documented_form(tmp_path: Path, model_dir: Path) -> None:
    """schemathesis makes valid and invalid requests from the OpenAPI document, and holds each answer against it."""
    program = Path(sys.executable).with_name("schemathesis")
    options = [
        "--max-examples",
        "15",
        "--seed",
        "1",
        "--generation-deterministic",
        "--phases",
        "examples,coverage,fuzzing",
    ]
    # Bytes that are no image are refused, which no schema can say.
    checks = ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]
    with serving(model_dir, "--max-upload-mb", "1", folder=tmp_path) as server:
        done = subprocess.run(
            [str(program), "run", f"{server.url}/openapi.json", *options, *checks],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        outcome = server.stop()
    assert outcome.code == 0
    assert "Traceback" not in outcome.err
