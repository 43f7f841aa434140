"""The start of a prediction on rank zero: a folder of its own, the list of images, what a command before has left."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from disttrain.errors import ConfigError
from disttrain.files import file_sha256
from disttrain.inference.input_list import write_input_list
from disttrain.inference.predict_job import FORMAT, JobFolder, Planner, check_same
from disttrain.log import log
from disttrain.system.owner import FolderOwner, Use

_USE = Use("folder", "predicts", "--output")


@dataclass(frozen=True)
class Started:
    """What the other ranks are told."""

    folder: JobFolder
    token: str
    """By which they know that they see the same folder."""


@contextlib.contextmanager
def opened_folder(output: str | None, resume: bool) -> Iterator[JobFolder]:
    """The folder beside the output, this command being the only one in it; without an output one for temporary files.

    Afterwards it is gone if there is nothing in it. Raises ConfigError for what must not be written over, OSError.
    """
    if output is None:
        folder = JobFolder(Path(tempfile.mkdtemp(prefix="disttrain-predict-")))
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                folder.clear()
                folder.path.rmdir()
        return
    path = Path(f"{output}.parts")
    path.mkdir(exist_ok=True)
    owner = FolderOwner(path, use=_USE)
    folder = JobFolder(path)
    try:
        _look(folder, output, resume)
        try:
            yield folder
        finally:
            if not folder.record():  # nothing was begun
                folder.clear()
    finally:
        owner.close()
        with contextlib.suppress(OSError):
            path.rmdir()


def _look(folder: JobFolder, output: str, resume: bool) -> None:
    """Raise ConfigError where what is there must not be touched."""
    if folder.is_foreign():
        raise ConfigError(f"{folder.path}, the folder for what is done, holds other files. Use another --output.")
    record = folder.record()
    if not resume and record.get("format", FORMAT) != FORMAT:
        raise ConfigError(f"{folder.path} was begun by another version of disttrain. Go on with that, or remove it.")
    if not resume and record and "finished" not in record and (done := folder.images_done(folder.plan())):
        raise ConfigError(
            f"{folder.path} holds {done:,} of {record['count']:,} images of a command that did not come to its end. Go "
            f"on with it by --resume, or remove the folder."
        )
    if resume and not record and Path(output).exists():
        raise ConfigError(
            f"--resume: {output} is there already, and nothing says of which model and inputs it is. Leave --resume "
            "out to write it anew, or use another --output."
        )


def start_job(folder: JobFolder, inputs: Sequence[str], output: str | None, planner: Planner, resume: bool) -> Started:
    """List the images and find what is left to do. Raises ConfigError, DataError, OSError."""
    before = folder.record() if resume else {}
    if not before:
        folder.clear()
    plan = planner.plan(write_input_list(inputs, folder.path))
    token = uuid.uuid4().hex
    if before:
        check_same(plan, before, str(output), folder.path)
        if finished := before.get("finished"):
            if not Path(str(output)).exists() or file_sha256(Path(str(output))) != finished["sha256"]:
                raise ConfigError(
                    f"--resume: {output} was complete, and is gone or has changed since. Remove {folder.path} to write "
                    "it anew."
                )
            log.info("%s is complete already", output)
            folder.finish_again(before, token)
            return Started(folder, token)
    folder.drop_damaged()
    folder.start(plan, token)
    if done := folder.images_done(plan):
        log.info("going on with %s: %d of %d images are done", output, done, plan.count)
    return Started(folder, token)
