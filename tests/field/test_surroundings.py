"""Odd machines: closed streams, a working directory full of names, no host name, long folders, absent ranks."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import disttrain.data.stream as stream
from disttrain.comm.rank_logging import _Console
from disttrain.config import build_config, user_code
from disttrain.config.user_code import import_object
from disttrain.data.base import Dataset
from disttrain.errors import ConfigError, DataError, DisttrainError, say_error
from disttrain.system.import_path import RUN_MODULE
from disttrain.system.streams import _tolerant, check_results_written

# What a user may call a script of their own, beside the package's own name.
TAKEN = ("random", "queue", "logging", "typing", "signal", "select", "yaml", "pydantic", "torch", "numpy", "disttrain")
DISTTRAIN = [sys.executable, RUN_MODULE, "disttrain"]
POINTS = """
import torch, queue, helper_of_mine
class Points(torch.utils.data.Dataset):
    classes = ("left", "right")
    def __len__(self): return 64
    def __getitem__(self, i): return torch.full((8,), float(i % 2)), i % 2
def data(path): return Points(), Points()
def net(class_count): return torch.nn.Linear(8, class_count)
"""


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A working directory with files that are called like modules, and end whoever imports them."""
    for name in TAKEN:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('my own little script')\n")
    (tmp_path / "wandb").mkdir()
    return tmp_path


def shell(line: str, folder: Path, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """`disttrain` in a shell's words stands for the command."""
    environ = {key: value for key, value in {**os.environ, **variables}.items() if value is not None}
    line = re.sub(r"\bdisttrain (?=train|--)", " ".join(DISTTRAIN) + " ", line)
    command = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)


# --- imports


def test_a_command_imports_nothing_from_the_working_directory(crowded: Path) -> None:
    done = shell("disttrain train --help-config | tail -n 3; disttrain --version", crowded)
    assert (done.returncode, done.stderr) == (0, "")
    assert "disttrain 0" in done.stdout


def test_python_m_imports_nothing_from_the_working_directory_either(tmp_path: Path) -> None:
    for name in ("queue", "random", "yaml", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('my own little script')\n")
    done = shell(f"{sys.executable} -mdisttrain train --help-config", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    # As in a new process: other tests may have named modules of theirs, and so this file's own package.
    monkeypatch.setattr(user_code, "_finder", user_code._WorkingDirectory())
    others = [one for one in sys.meta_path if not isinstance(one, user_code._WorkingDirectory)]
    monkeypatch.setattr(sys, "meta_path", others)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (file := getattr(sys.modules[name], "__file__", None)) and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


def test_a_config_names_modules_of_the_working_directory_and_they_import_their_own(user_folder: Path) -> None:
    (user_folder / "fs_package").mkdir()
    (user_folder / "fs_package" / "inner.py").write_text(
        "import fs_helper, queue\ndef found(): return fs_helper.value.__name__, queue.Queue.__name__\n"
    )
    (user_folder / "fs_helper.py").write_text("from fs_second import value\n")
    (user_folder / "fs_second.py").write_text("def value(): pass\n")
    (user_folder / "fs_optional.py").write_text("raise SystemExit('not for you')\n")
    (user_folder / "queue.py").write_text("raise SystemExit('my own little script')\n")
    path = list(sys.path)
    assert import_object("fs_package.inner:found", "model.name")() == ("value", "Queue")
    assert sys.path == path
    with pytest.raises(ModuleNotFoundError):
        __import__("fs_optional")  # as a library that looks for an optional package


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("queue:net", r"unknown name in queue: 'net'|queue.*not the one in .*give yours another name"),
        ("fs_nowhere:net", r"there is no module 'fs_nowhere'"),
        ("fs_exits:net", "importing fs_exits raised SystemExit"),
    ],
)
def test_a_module_that_cannot_be_had_is_told(user_folder: Path, path: str, says: str) -> None:
    (user_folder / "queue.py").write_text("def net(): pass\n")
    (user_folder / "fs_exits.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(ConfigError, match=says):
        import_object(path, "model.name")


# --- streams


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("disttrain train --help-config | head -n 1", 0),
        ("disttrain train --help-config >&-", 0),
        ("disttrain train --help-config > /dev/full", 0),
        ("disttrain --version <&- >&- 2>&-", 0),
        ("disttrain train c.yaml train.epochs=oops 2>&-", 2),
        ("disttrain train c.yaml train.epochs=oops <&- >&- 2>&-", 2),
        ("disttrain train c.yaml train.epochs=oops 2> /dev/full", 2),
        ("disttrain train c.yaml train.epochs=oops 2> >(true)", 2),
        ("disttrain train --no-such-option 2>&-", 2),
    ],
)
def test_closed_and_broken_streams_change_no_exit_code(tmp_path: Path, line: str, code: int) -> None:
    (tmp_path / "c.yaml").write_text("")
    done = shell(line, tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_text_that_the_terminal_cannot_show_is_no_traceback(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell("disttrain train chïps.yaml", tmp_path, **ascii_only)
    assert done.returncode == 2
    assert done.stderr.startswith("disttrain: error: cannot read the config file ch")


def broken_stream(kind: str) -> tuple[int, io.TextIOWrapper]:
    if kind == "full":
        number = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, number = os.pipe()
        os.close(reader)
    return number, open(number, "w", closefd=False)


@pytest.mark.parametrize(("kind", "is_lost"), [("full", True), ("pipe", False)])
def test_results_that_have_a_reader_and_are_lost_are_told(
    monkeypatch: pytest.MonkeyPatch, kind: str, is_lost: bool
) -> None:
    number, plain = broken_stream(kind)
    monkeypatch.setattr(sys, "stdout", _tolerant(plain, number, line_buffering=False))
    sys.stdout.write("x" * 100_000 + "\udcff\n")
    with pytest.raises(DisttrainError, match="No space left") if is_lost else contextlib.nullcontext():
        check_results_written()
    os.close(number)


@pytest.mark.parametrize("kind", ["full", "pipe", "closed", "none"])
def test_log_lines_and_errors_of_a_users_program_never_raise(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    number, _ = broken_stream("full" if kind == "full" else "pipe")
    text = io.TextIOWrapper(io.FileIO(number, "w"), write_through=True)
    if kind == "closed":
        text.close()
    monkeypatch.setattr(sys, "stderr", None if kind == "none" else text)
    _Console(logging.INFO).emit(logging.makeLogRecord({"msg": "a line", "levelno": logging.INFO}))
    say_error("a message")
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        text.close()


# --- sockets, loader processes, files


@pytest.mark.parametrize("length", [20, 75, 76, 90, 300])
def test_sockets_go_where_their_names_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    folder = (
        Path("/tmp") / ("d" * (length - 5)) if length < 250 else Path("/tmp") / ("d" * 150) / ("d" * (length - 156))
    )
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    place = stream._place_for_sockets()
    assert (place == folder) == (length <= stream._LONGEST_PLACE)
    with socket.socket(socket.AF_UNIX) as one:
        name = place / f"pymp-{'x' * 8}" / f"listener-{'x' * 8}"
        name.parent.mkdir()
        one.bind(str(name))
    shutil.rmtree(name.parent)
    shutil.rmtree(Path("/tmp", *folder.parts[2:3]))
    monkeypatch.setattr(stream, "_SHORT_PLACES", ("/proc/no",))
    if length > stream._LONGEST_PLACE:
        with pytest.raises(
            ConfigError, match=rf"has {length} characters, more than 75.*Set TMPDIR to a shorter folder"
        ):
            stream._place_for_sockets()


class Slow:
    """A loader that gives up a few times before each batch."""

    def __init__(self, errors: list[str]) -> None:
        self.errors = errors

    def __iter__(self) -> Slow:
        return self

    def __next__(self) -> str:
        if self.errors:
            raise RuntimeError(self.errors.pop(0))
        return "batch"


def test_a_wait_for_loader_processes_says_so_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    timed_out = "DataLoader timed out after 5 seconds"
    with caplog.at_level(logging.INFO, "disttrain"):
        assert next(stream._within(Slow([timed_out] * 3), 60)) == "batch"
    assert [one.getMessage()[:44] for one in caplog.records] == ["waiting for a batch from the loader processe"]
    with pytest.raises(DataError, match=r"no batch has come .* \(data\.loader_timeout_s=0\).*loader_workers=0"):
        next(stream._within(Slow([timed_out]), 0))
    with pytest.raises(
        DataError, match=r"loader processes: DataLoader worker \(pid 7\) is killed by signal: Bus error"
    ):
        next(stream._within(Slow(["DataLoader worker (pid 7) is killed by signal: Bus error."]), 60))


class SlowPoints:
    """Its second sample takes longer than a loader waits at a time."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(1.0 * index)
        return torch.zeros(1), index


def test_a_loader_that_was_waited_for_gives_its_batches_after_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream, "SOON_S", 0.1)
    config = build_config({"data": {"placement": "stream", "loader_workers": 1}}).data
    samples = SlowPoints()
    dataset = Dataset(samples, {"train": np.arange(2)}, (), "")
    loaded = stream.StreamedSamples(dataset, config, None, torch.device("cpu"), 0)
    with caplog.at_level(logging.INFO, "disttrain"):
        targets = [batch[1].tolist() for batch in loaded.batches([np.array([0]), np.array([1])], None)]
    assert targets == [[0], [1]]
    assert len(caplog.records) == 1


def test_as_many_files_may_be_open_as_the_system_allows(tmp_path: Path) -> None:
    code = "import resource; from disttrain.system.processes import *; raise_file_limit(); "
    code += "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    done = shell(f"ulimit -Sn 40; ulimit -Hn 500; {sys.executable} -c '{code}'", tmp_path)
    assert done.stdout.split() == ["500", "500"], done.stderr


# --- all of it at once


def test_two_workers_train_in_a_hostile_place(crowded: Path) -> None:
    (crowded / "torch.py").unlink()  # the user's own code imports it by name
    (crowded / "toy.py").write_text(POINTS)
    (crowded / "helper_of_mine.py").write_text("")
    (crowded / "toy.yaml").write_text(
        "model: {name: 'toy:net'}\ndata: {name: 'toy:data', placement: stream, loader_workers: 1}\n"
        "batch: {global_batch_size: 32}\ntrain: {epochs: 010, max_steps: 2}\n"
    )
    long = crowded / ("d" * 90)
    long.mkdir()
    command = "disttrain train toy.yaml 'data.path=chips #2' --workers 2 --run-dir=~/run <&- >&- 2> /dev/full"
    done = shell(command, crowded, TMPDIR=str(long), HOME=str(crowded), LC_ALL="C", TMP=None, TEMP=None)
    assert done.returncode == 0, (crowded / "run" / "logs" / "rank_0.log").read_text()
    assert json.loads((crowded / "run" / "result.json").read_text())["step"] == 2
    assert "path: 'chips #2'" in (crowded / "run" / "config.yaml").read_text()
    assert not (crowded / "~").exists()
    assert not (crowded / "run" / "owner.json").exists()
