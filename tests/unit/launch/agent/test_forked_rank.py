"""Ranks that are forked: they are what new processes with the same command would be."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing import api

from disttrain.launch.agent.forked_rank import ForkedRank, ForkServer, forking_from
from disttrain.system.import_path import RUN_MODULE
from disttrain.system.processes import adopting_orphans

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ranks are forked on Linux only")

PROBE = """
import json, multiprocessing, os, random, resource, signal, sys, tempfile, threading, uuid
from pathlib import Path

def status():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: lines[name].strip() for name in ("SigBlk", "SigIgn", "SigCgt", "Threads", "Umask")}

def look():
    main = sys.modules["__main__"]
    return {
        "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": str(sys.flags),
        "main": [__name__, main.__file__, main.__spec__.name],
        "environ": dict(os.environ), "cwd": os.getcwd(), "parent": os.getppid(), "nice": os.nice(0),
        "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
        "signals": [str(signal.getsignal(number)).split(" at ")[0] for number in sorted(signal.valid_signals())],
        "files": {str(fd): os.readlink(f"/proc/self/fd/{fd}") for fd in range(256) if os.path.exists(f"/dev/fd/{fd}")},
        "limits": [resource.getrlimit(number) for number in range(16)],
        "cmdline": Path("/proc/self/cmdline").read_bytes().decode(errors="surrogateescape"),
        "proc_environ": sorted(Path("/proc/self/environ").read_bytes().decode(errors="surrogateescape").split("\\0")),
        "exe": os.readlink("/proc/self/exe"), "status": status(), "python_threads": threading.active_count(),
        "tempdir": tempfile.tempdir,
    }

def draw():
    import numpy
    key = bytes(multiprocessing.current_process().authkey)
    return [random.random(), numpy.random.random(), uuid.uuid4().hex, tempfile.mktemp(), key.hex()]

verb, *rest = sys.argv[1:]
if verb == "look":
    Path(rest[0]).write_text(json.dumps(look()))
elif verb == "draw":
    Path(rest[0]).write_text(json.dumps(draw()))
elif verb == "multiply":
    import numpy
    Path(rest[0]).write_text(json.dumps(float((numpy.ones((500, 500)) @ numpy.ones((500, 500))).sum())))
elif verb == "exit":
    import atexit
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: print("a thread", flush=True)).start()
    print("written")  # to be flushed
    sys.exit(eval(rest[0]))
elif verb == "raise":
    raise ValueError("of the rank")
elif verb == "die":
    os.kill(os.getpid(), signal.SIGTERM)
elif verb == "stay":
    Path(rest[0]).touch()
    signal.pause()
"""


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the module that the ranks run."""
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
    return tmp_path


@pytest.fixture(autouse=True)
def _from_a_terminal() -> Iterator[None]:
    """A command that a shell has put into the background ignores SIGINT, and so would all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def serve(probe: Path) -> Iterator[Callable[..., ForkServer]]:
    servers: list[ForkServer] = []

    def begin(*preload: str) -> ForkServer:
        servers.append(ForkServer(preload))
        servers[-1].wait_ready()
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def command(*words: str) -> list[str]:
    return [sys.executable, "-u", RUN_MODULE, "probe", *words]


def fork(server: ForkServer, *words: str, **variables: str) -> ForkedRank:
    with adopting_orphans():
        rank = server.fork(command(*words), {**os.environ, **variables})
    assert rank is not None
    return rank


def ended(server: ForkServer, *words: str, **variables: str) -> int:
    return fork(server, *words, **variables).wait(60)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(server: ForkServer) -> int:
    assert server._process is not None
    server._process.kill()
    server._process.wait()
    return server._process.pid


def test_a_forked_rank_is_what_a_new_process_would_be(
    serve: Callable[..., ForkServer], probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"RANK": "1", "LONG": "x" * 5000, "EMPTY": "", "BYTES": "\udcff\udce4"}
    argv = ["look", str(probe / "seen"), "two words", "", "\udcff"]
    monkeypatch.setenv("ONLY_IN_THE_SERVER", "1")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup; the agent has its own handler by then
    server = serve("json", "numpy")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    monkeypatch.delenv("ONLY_IN_THE_SERVER")
    seen: list[dict[str, Any]] = []
    for start in (
        lambda: ended(server, *argv, **variables),
        lambda: subprocess.call(command(*argv), env={**os.environ, **variables}, start_new_session=True),
    ):
        assert start() == 0
        seen.append(json.loads((probe / "seen").read_text()))
    forked, spawned = seen
    differing = {name: (forked[name], spawned[name]) for name in spawned if forked[name] != spawned[name]}
    assert differing == {}
    assert forked["parent"] == os.getpid()
    assert forked["status"]["Threads"] == "1"
    signal.signal(signal.SIGHUP, before)


def test_a_server_ends_quietly_where_the_agent_has_gone_before_it_was_ready(
    probe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = ForkServer(["json"])
    control, process = server._control, server._process
    assert control is not None
    assert process is not None
    until(lambda: bool(select.select([control], [], [], 0)[0]))  # "I am ready", which nobody reads
    control.close()
    assert process.wait(60) == 0
    assert capfd.readouterr().err == ""


def test_two_ranks_draw_different_numbers(serve: Callable[..., ForkServer], probe: Path) -> None:
    server = serve("numpy.random", "random", "uuid", "tempfile", "multiprocessing")
    drawn = []
    for name in ("first", "second"):
        assert ended(server, "draw", str(probe / name)) == 0
        drawn.append(json.loads((probe / name).read_text()))
    assert [one for one, other in zip(*drawn, strict=True) if one == other] == []


def test_the_threads_of_openblas_are_there_again_after_a_fork(
    serve: Callable[..., ForkServer], probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    server = serve("numpy")
    for name in ("first", "second"):
        assert ended(server, "multiply", str(probe / name)) == 0
        assert json.loads((probe / name).read_text()) == 500**3


@pytest.mark.parametrize(("end", "code"), [("0", 0), ("None", 0), ("7", 7), ("144", 144), ("'some words'", 1)])
def test_it_ends_as_a_process_of_its_own(
    serve: Callable[..., ForkServer], capfd: pytest.CaptureFixture[str], end: str, code: int
) -> None:
    assert ended(serve(), "exit", end) == code
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["a thread", "at exit", "written"]
    assert err == ("some words\n" if code == 1 else "")


def test_an_exception_and_a_signal_end_it_as_they_end_a_process_of_its_own(
    serve: Callable[..., ForkServer], capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    assert ended(server, "raise") == 1
    forked = capfd.readouterr().err
    assert subprocess.call(command("raise")) == 1
    spawned = capfd.readouterr().err
    assert forked == spawned
    assert "ValueError: of the rank" in spawned
    assert ended(server, "die") == -signal.SIGTERM


def test_ranks_outlive_the_server_which_can_be_started_again(serve: Callable[..., ForkServer], probe: Path) -> None:
    server = serve()
    rank = fork(server, "stay", str(probe / "there"))
    until((probe / "there").exists)
    old = kill(server)
    with adopting_orphans():
        assert server.fork(command("exit", "0"), os.environ) is None
    assert rank.poll() is None
    server.start()
    server.wait_ready()
    assert server._process is not None
    assert server._process.pid != old
    assert ended(server, "exit", "3") == 3
    assert rank.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        rank.wait(0)
    rank.send_signal(signal.SIGTERM)
    assert rank.wait(60) == -signal.SIGTERM
    rank.send_signal(signal.SIGTERM)  # to nobody


@pytest.mark.parametrize(
    "text",
    ["raise ImportError", "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"],
    ids=["import fails", "import starts a thread"],
)
def test_what_cannot_be_forked_is_left_to_new_processes(
    serve: Callable[..., ForkServer], probe: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    (probe / "odd.py").write_text(text)
    server = serve("odd")
    with adopting_orphans():
        assert server.fork(command("exit", "0"), os.environ) is None
    assert capfd.readouterr().err == ""


def test_torch_gets_forked_ranks_for_commands_of_this_package_without_streams_of_their_own(
    serve: Callable[..., ForkServer], tmp_path: Path
) -> None:
    usual = api.get_subprocess_handler

    def started(*words: str, stdout: str = "") -> Any:
        handler = api.get_subprocess_handler(sys.executable, words, {"RANK": "0"}, stdout, "", 0, None)
        assert handler.proc.wait(60) == 0
        return type(handler.proc)

    with forking_from(serve()):
        assert started("-u", RUN_MODULE, "disttrain", "--version") is ForkedRank
        assert started("-u", RUN_MODULE, "disttrain", "--version", stdout=str(tmp_path / "out")) is subprocess.Popen
        assert started("-u", "-m", "disttrain", "--version") is subprocess.Popen
    assert (tmp_path / "out").read_text()
    assert api.get_subprocess_handler is usual


def test_the_server_has_a_command_line_that_is_not_that_of_a_rank(serve: Callable[..., ForkServer]) -> None:
    server = serve("json")
    assert server._process is not None
    words = Path(f"/proc/{server._process.pid}/cmdline").read_text().split("\0")
    assert words[2:5] == [RUN_MODULE, "--fork", str(os.getpid())]
    assert "json" in words
