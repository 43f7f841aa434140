"""The folder beside the output in which predictions are kept until all are there.

The images are cut into blocks that do not depend on the number of ranks. Each block becomes one file, written beside
and renamed; its name has the checksum of its content. So a file that is there with the right checksum is done, whatever
happened to the command, and on any number of ranks the blocks one behind the other are the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from disttrain.errors import ConfigError, IntegrityError
from disttrain.files import file_sha256, write_json
from disttrain.inference.input_list import LIST_FILES, InputList
from disttrain.models.model_dir import ModelSpec
from disttrain.system.owner import OWNER

JOB, _TODO, _BLOCKS = "job.json", "todo.json", "blocks"
_OWN_FILES = {JOB, _TODO, _BLOCKS, OWNER, *LIST_FILES}
FORMAT = 1
_SMALLEST_BATCH, _LARGEST_BATCH, _BATCHES_PER_BLOCK, _BLOCKS_WANTED = 32, 512, 8, 64
_BLOCK_NAME = re.compile(r"(\d+)-(\d+)-([0-9a-f]{8})")  # number, rows with an error, CRC-32 of the content
_LARGEST_BATCH_BYTES = 8 << 20  # of pixels, which decoding processes hand over in shared memory
_NAMES = {
    "format": "the version of the folder",
    "model": "the model",
    "inputs": "the inputs",
    "form": "the form of the output",
    "batch_size": "the size of batches",
    "block_size": "the size of blocks",
}
_PIECE = 1 << 20


@dataclass(frozen=True)
class Planner:
    """What a plan depends on beside the images."""

    spec: ModelSpec
    as_json: bool
    network: str = ""
    """The sha256 of the file where another runtime than torch runs it: the last decimals are its own."""

    def plan(self, inputs: InputList) -> JobPlan:
        """Sizes depend on the images and the model alone, never on the number of ranks."""
        spec, count = self.spec, inputs.count
        described = json.dumps([asdict(spec), self.network], sort_keys=True)
        fitting = min(_LARGEST_BATCH, max(1, _LARGEST_BATCH_BYTES // math.prod(spec.input_shape)))
        batch = min(fitting, max(_SMALLEST_BATCH, count // _BLOCKS_WANTED))
        blocks = min(_BATCHES_PER_BLOCK, max(1, count // (batch * _BLOCKS_WANTED)))
        model = hashlib.sha256(described.encode()).hexdigest()
        form = "jsonl" if self.as_json else "csv"
        return JobPlan(count, inputs.sha256, model, spec.weights_sha256, form, batch, batch * blocks)


@dataclass(frozen=True)
class JobPlan:
    """What is to be done, so that another command can tell whether it is the same."""

    count: int
    inputs: str
    """sha256 of the list."""
    model: str
    """sha256 of all that a model directory says, the hash of its weights included."""
    weights_sha256: str
    form: str
    batch_size: int
    block_size: int
    format: int = FORMAT

    @property
    def blocks(self) -> int:
        """How many there are."""
        return -(-self.count // self.block_size)

    def batches(self, block: int) -> list[range]:
        """The images of a block."""
        end = min(self.count, (block + 1) * self.block_size)
        return [
            range(at, min(end, at + self.batch_size)) for at in range(block * self.block_size, end, self.batch_size)
        ]


class CannotWrite(OSError):
    """The disk does not take a block."""


class BlockWriter:
    """The rows of one block on their way to its file. Every OSError of it is a CannotWrite."""

    def __init__(self, folder: Path, block: int) -> None:
        self._folder, self._block = folder, block
        self._beside = folder / f".{uuid.uuid4().hex[:8]}"
        with _cannot_write():
            self._file = self._beside.open("wb")
        self._checksum, self._failed = 0, 0

    def write(self, text: str, failed: int) -> None:
        """`failed`: how many of these rows have an error. Raises CannotWrite."""
        data = text.encode(errors="surrogateescape")
        self._checksum = zlib.crc32(data, self._checksum)
        self._failed += failed
        with _cannot_write():
            self._file.write(data)

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Give the file its name, unless something went wrong. Raises CannotWrite."""
        try:
            with _cannot_write():
                self._file.close()
                if kind is None:
                    self._beside.rename(self._folder / f"{self._block}-{self._failed}-{self._checksum:08x}")
        except CannotWrite:
            if kind is None:
                raise
        finally:
            with contextlib.suppress(OSError):
                self._beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _cannot_write() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(error.errno, error.strerror) from None


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _is_whole(path: Path) -> bool:
    checksum = 0
    for piece in _pieces(path):
        checksum = zlib.crc32(piece, checksum)
    return f"{checksum:08x}" == path.name.split("-")[2]


class JobFolder:
    """The list of the images, the plan, and the blocks that are done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def block(self, number: int) -> BlockWriter:
        """A block to write: there once it is whole. Raises CannotWrite."""
        return BlockWriter(self.path / _BLOCKS, number)

    def done(self) -> dict[int, Path]:
        """The file of every block that is there, unread."""
        names = os.listdir(self.path / _BLOCKS)  # noqa: PTH208 (many names need no Path)
        return {int(found[1]): self.path / _BLOCKS / found[0] for found in map(_BLOCK_NAME.fullmatch, names) if found}

    def images_done(self, plan: JobPlan) -> int:
        """How many images are in blocks that are there."""
        done = self.done()
        short = plan.blocks * plan.block_size - plan.count if plan.blocks - 1 in done else 0  # of the last block
        return len(done) * plan.block_size - short

    def drop_damaged(self) -> None:
        """Remove what a crash has left of blocks. Raises OSError."""
        (self.path / _BLOCKS).mkdir(exist_ok=True)
        for path in (self.path / _BLOCKS).iterdir():
            if not _BLOCK_NAME.fullmatch(path.name) or not _is_whole(path):
                path.unlink()

    def merge(self, plan: JobPlan, file: TextIO, header: str) -> int:
        """Write all blocks in order; returns how many rows have an error. Raises IntegrityError, OSError."""
        done, failed = self.done(), 0
        file.write(header)
        file.flush()
        for block in range(plan.blocks):
            _, errors, expected = done[block].name.split("-")
            checksum = 0
            for piece in _pieces(done[block]):
                checksum = zlib.crc32(piece, checksum)
                file.buffer.write(piece)
            if f"{checksum:08x}" != expected:
                raise IntegrityError(f"{done[block]} is damaged. Run the same command again with --resume.")
            failed += int(errors)
        return failed

    def start(self, plan: JobPlan, token: str) -> None:
        """Let the other ranks know what is left to do. Raises OSError."""
        done = self.done()
        write_json(self.path / _TODO, [block for block in range(plan.blocks) if block not in done])
        write_json(self.path / JOB, {**asdict(plan), "token": token})

    def todo(self) -> list[int]:
        """The blocks that were not there when this command began. Raises OSError."""
        numbers: list[int] = json.loads((self.path / _TODO).read_text(encoding="utf-8"))
        return numbers

    def plan(self) -> JobPlan:
        """Of the command that has begun here. Raises KeyError where another version of disttrain has begun it."""
        record = self.record()
        return JobPlan(**{name: record[name] for name in JobPlan.__dataclass_fields__})

    def record(self) -> dict[str, Any]:
        """What is known of the command that began here; empty where none did."""
        try:
            found = json.loads((self.path / JOB).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def is_foreign(self) -> bool:
        """Whether something is there that no command of this kind has put there."""
        beside = tuple(f".{name}." for name in _OWN_FILES)  # what a kill leaves of a file that is being replaced
        names = [path.name for path in self.path.iterdir()]
        return any(name not in _OWN_FILES and not name.startswith(beside) for name in names)

    def clear(self, *kept: str) -> None:
        """Remove everything but the owner's name and what is to be kept. Raises OSError."""
        for path in [*(self.path / _BLOCKS).glob("*"), *self.path.iterdir()]:
            if path.name not in (OWNER, *kept):
                path.rmdir() if path.is_dir() else path.unlink()

    def keep_result(self, output: Path, failed: int) -> None:
        """In the place of the blocks: what the whole output was. Raises OSError."""
        finished = {"sha256": file_sha256(output), "failed": failed}
        write_json(self.path / JOB, {**self.record(), "finished": finished})
        self.clear(JOB)

    def finish_again(self, record: Mapping[str, Any], token: str) -> None:
        """Nothing is left to do: the record alone, for the other ranks too. Raises OSError."""
        write_json(self.path / JOB, {**record, "token": token})
        self.clear(JOB)


def check_same(plan: JobPlan, before: Mapping[str, Any], output: str, folder: Path) -> None:
    """Raise ConfigError, with what differs, where a command was begun for something else."""
    now = asdict(plan)
    differing = [text for name, text in _NAMES.items() if before.get(name) != now[name]]
    if differing:
        hint = ""
        if "the model" in differing:
            hint = f" (weights {str(before.get('weights_sha256'))[:12]}..., now {plan.weights_sha256[:12]}...)"
        raise ConfigError(
            f"--resume: {', '.join(differing)} of the command that began {output} differ{hint}: its rows and new ones "
            f"would not fit together. Give what it was given, or remove {folder} to start anew."
        )
