"""A server's life: a full queue, slow clients, processes that are lost, mistakes, the way out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from .commands import DISTTRAIN, run
from .serving import chips, form, other_model, send_slowly, serving, until

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"


@pytest.fixture
def place(tmp_path: Path, model_dir: Path) -> Path:
    """A folder with `model`, a copy that may be replaced."""
    shutil.copytree(model_dir, tmp_path / "model")
    return tmp_path


def test_term_ends_readiness_first_then_running_requests_then_the_server(place: Path) -> None:
    with serving(place / "model", "--drain-s", "1000") as server:
        assert server.client.get("/readyz").status_code == 200
        slow = send_slowly(server.port, HEAD)
        server.process.send_signal(signal.SIGTERM)
        draining = until(lambda: (a := httpx.get(f"{server.url}/readyz")).status_code == 503 and a, "it drains")
        assert draining.json() == {"status": "draining"}
        assert draining.headers["connection"] == "close"
        assert server.client.post("/v1/predict", files=form(chips(1))).status_code == 200
        slow.close()
        outcome = server.stop(signal.SIGINT)  # no patience
    assert outcome.code == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_request_that_is_under_way_is_answered_after_term(place: Path, processes: str) -> None:
    body = json.dumps({"images": [{"data": "AAAA"}]}).encode().ljust(5000)
    with serving(place / "model", "--processes", processes) as server:
        slow = send_slowly(server.port, HEAD + body[:2000])
        time.sleep(0.2)  # it has to be taken before the signal comes; later is a refused connection, and a failure
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not_listening(server.port), "nothing is taken any more")
        slow.sendall(body[2000:])
        answer = slow.makefile("rb").read()
        outcome = server.wait()
    assert answer.startswith(b"HTTP/1.1 422")
    assert b"not an image" in answer
    assert outcome.code == 0


def not_listening(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5)
    except httpx.HTTPError:
        return True
    return False


def test_a_full_queue_is_503_with_retry_after_and_has_room_again(place: Path) -> None:
    options = ("--max-queue", "8", "--max-images", "8", "--max-batch-size", "1")
    with serving(place / "model", *options) as server:
        statuses: list[int] = []

        def ask() -> None:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                for _ in range(6):
                    answer = client.post("/v1/predict", files=form(chips(8)))
                    statuses.append(answer.status_code)
                    if answer.status_code == 503:
                        assert answer.headers["retry-after"] == "1"
                        assert "The queue is full" in answer.json()["detail"]

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(statuses) == 48
        assert set(statuses) == {200, 503}
        assert server.client.post("/v1/predict", files=form(chips(8))).status_code == 200
        assert "disttrain_waiting_images 0.0" in server.client.get("/metrics").text


def test_a_slow_client_is_told_and_holds_up_nobody(place: Path) -> None:
    with serving(place / "model", "--request-timeout-s", "1") as server:
        slow = [send_slowly(server.port, HEAD + b'{"images"') for _ in range(5)]
        assert server.client.post("/v1/predict", files=form(chips(1))).status_code == 200
        for connection in slow:
            answer = connection.makefile("rb").read()  # to the end of the connection
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"did not come within 1 s" in answer
            connection.close()


def test_clients_that_go_away_leave_nothing_behind(place: Path) -> None:
    with serving(place / "model") as server:
        for sent in (b"", b"POST", HEAD, HEAD + b"{" * 4000, HEAD + b"{" * 5000):
            send_slowly(server.port, sent).close()
        assert server.client.post("/v1/predict", files=form(chips(1))).status_code == 200
        until(lambda: "disttrain_waiting_images 0.0" in server.client.get("/metrics").text, "nothing waits")
        outcome = server.stop()
    assert outcome.code == 0
    assert "Traceback" not in outcome.err


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_process_that_is_lost_is_started_again(place: Path) -> None:
    with serving(place / "model", "--processes", "2") as server:
        before = children_of(server.process.pid)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(set(children_of(server.process.pid)) - set(before)) == 1, "another process is there")
        assert server.client.get("/readyz").status_code == 200
        os.kill(before[1], signal.SIGKILL)  # so that the new ones alone are left to answer
        until(lambda: len(set(children_of(server.process.pid)) - set(before)) == 2, "two other processes are there")
        with httpx.Client(base_url=str(server.client.base_url), timeout=60) as another:
            assert another.get("/v1/model").status_code == 200
        ended = server.stop()
        assert ended.code == 0
        assert ended.err.count("has ended with") == 2, ended.err


@pytest.fixture(scope="module")
def no_fastapi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("no_fastapi")
    (folder / "sitecustomize.py").write_text(
        "import importlib.util as u\nfound = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'fastapi' else found(name, *a)\n"
    )
    return folder


def test_mistakes_are_told_with_their_exit_code(place: Path, no_fastapi: Path) -> None:
    serve = [*DISTTRAIN, "serve"]
    outcome = run([*serve, "model"], place, {"PYTHONPATH": f"{no_fastapi}:{os.environ.get('PYTHONPATH', '')}"})
    assert outcome.code == 2
    assert "pip install 'disttrain[serve]'" in outcome.message
    outcome = run([*serve, "nowhere", "--port", "0", "--processes", "2"], place)
    assert outcome.code == 3
    assert len(outcome.errors) == 1
    other_model(place / "model", place / "liar", honest=False)
    outcome = run([*serve, "liar", "--port", "0"], place)
    assert outcome.code == 5
    assert "golden requests" in outcome.message
    outcome = run([*serve, "model", "--host", "192.0.2.1"], place)
    assert outcome.code == 2
    assert "cannot be listened on" in outcome.message
    outcome = run([*serve, "model", "--max-queue", "5"], place, {"DISTTRAIN_API_KEY": "k"})
    assert outcome.code == 2
    assert "--max-queue 5 has no place for a request of --max-images 256" in outcome.message
    outcome = run([*serve, "model"], place, {"DISTTRAIN_API_KEY": " "})
    assert outcome.code == 2
    assert "DISTTRAIN_API_KEY is set and empty" in outcome.message
