"""Images in folders and zip files: list them, read one, decode thousands in parallel."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from disttrain.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# What Pillow raises on damaged files of the supported formats; RuntimeError is what zipfile raises on encrypted ones.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, KeyError, RuntimeError, zlib.error, struct.error,
              zipfile.BadZipFile, Image.DecompressionBombError)  # fmt: skip
_IMAGES_PER_PROCESS = 4000  # below this, starting another process costs more than it saves

BadImages = list[tuple[str, str]]
"""(name, reason) of every image that could not be used."""


class ImageStore:
    """The images below a folder or in a zip file, by name."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where `path` is neither a folder nor a readable zip."""
        self.path = path
        self._is_zip = not path.is_dir()
        self._zip: tuple[int, zipfile.ZipFile] | None = None
        if not self._is_zip:
            return
        if not path.exists():
            raise DataError(f"{path} does not exist: give the folder or zip file that holds the images.")
        try:
            self._open_zip()
        except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            raise DataError(f"{path} is not a readable zip file: {error}. Copy or download it again.") from None

    def _open_zip(self) -> zipfile.ZipFile:
        """The zip, opened once per process: processes that share an open file move each other's position in it."""
        if self._zip is None or self._zip[0] != os.getpid():
            self._zip = os.getpid(), zipfile.ZipFile(self.path)
        return self._zip[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_zip": None}

    def names(self) -> list[str]:
        """Paths of all images relative to the store, sorted."""
        return sorted(name for name, _ in self._entries())

    def signature(self) -> list[str]:
        """A line per image that changes when the image does: name, inode, size and times, or size and CRC-32."""
        return sorted(f"{name} {mark}" for name, mark in self._entries())

    def _entries(self) -> Iterable[tuple[str, str]]:
        if self._is_zip:
            for info in self._open_zip().infolist():
                if _is_image(info.filename):
                    yield info.filename, f"{info.file_size} {info.CRC}"
            return
        for folder, folders, files in os.walk(self.path):
            folders.sort()
            for file in files:
                full = Path(folder, file)
                name = full.relative_to(self.path).as_posix()
                if _is_image(name):
                    status = full.stat()
                    yield name, f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"

    def read(self, name: str) -> bytes:
        """The bytes of one image. Raises one of UNREADABLE."""
        return self._open_zip().read(name) if self._is_zip else (self.path / name).read_bytes()


def _is_image(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return name.lower().endswith(IMAGE_SUFFIXES) and not hidden


def decode_image(data: bytes, shape: tuple[int, int, int], resize: bool = False) -> np.ndarray:
    """Image bytes -> uint8 of `shape` [channels, height, width]: RGB for 3 channels, grey for 1.

    Raises one of UNREADABLE; ValueError also for another size than `shape`, unless `resize` (bilinear).
    """
    channels, height, width = shape
    mode = "RGB" if channels == 3 else "L"
    with Image.open(io.BytesIO(data)) as image:
        if image.size != (width, height):
            if not resize:
                raise ValueError(f"is {image.width}x{image.height} pixels, expected {width}x{height}")
            image = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image.convert(mode))
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


def decode_all(
    store: ImageStore, names: list[str], out: np.ndarray, resize: bool, on_progress: Callable[[int], object]
) -> BadImages:
    """Decode `names` into `out` (a memory-mapped uint8 [n, channels, height, width]), over all cores.

    Args:
        on_progress: called with the number of images done since the last call.
    Returns: the images that could not be decoded; their rows in `out` stay zero.
    """
    processes = max(1, min(len(os.sched_getaffinity(0)), len(names) // _IMAGES_PER_PROCESS))
    if processes == 1:
        return _decode_part(store, names, range(len(names)), out, resize, on_progress)
    return _decode_in_processes(store, names, out, resize, on_progress, processes)


def _decode_part(
    store: ImageStore,
    names: list[str],
    part: range,
    out: np.ndarray,
    resize: bool,
    on_progress: Callable[[int], object],
) -> BadImages:
    bad = []
    for done, row in enumerate(part, start=1):
        try:
            out[row] = decode_image(store.read(names[row]), out.shape[1:], resize)
        except DECODE_ERRORS as error:
            bad.append((names[row], describe_unreadable(error)))
        if done % 500 == 0 or done == len(part):
            on_progress(500 if done % 500 == 0 else done % 500)
    return bad


def describe_unreadable(error: BaseException) -> str:
    """Why an image could not be read, in one line (Pillow's mention of in-memory objects says nothing to a user)."""
    text = " ".join(str(error).split())
    return "not an image" if "cannot identify image file" in text else text or type(error).__name__


def _decode_in_processes(
    store: ImageStore, names: list[str], out: np.ndarray, resize: bool, on_progress: Callable[[int], object], count: int
) -> BadImages:
    # Plain subprocesses on a shared memory map rather than multiprocessing: they neither import the user's main
    # module again nor fork a process that may hold threads and a CUDA context.
    workers = []
    for index in range(count):
        part = [len(names) * index // count, len(names) * (index + 1) // count]
        job = {
            "store": str(store.path),
            "out": str(getattr(out, "filename", "")),
            "resize": resize,
            "part": part,
            "names": names,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "disttrain.data.images"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        workers.append(process)
    bad: BadImages = []
    for process in workers:
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            on_progress(message["done"])
            bad.extend((name, reason) for name, reason in message["bad"])
    if failed := [process.returncode for process in workers if process.wait() != 0]:
        raise DataError(f"{len(failed)} of {count} image decoding processes ended with exit codes {failed}.")
    return bad


def _main() -> None:
    """One decoding process: a job as JSON on standard input, progress as JSON lines on standard output."""
    job = json.load(sys.stdin)
    out = np.lib.format.open_memmap(job["out"], mode="r+")

    def say(done: int, bad: BadImages) -> None:
        sys.stdout.write(json.dumps({"done": done, "bad": bad}) + "\n")
        sys.stdout.flush()

    bad = _decode_part(
        ImageStore(Path(job["store"])), job["names"], range(*job["part"]), out, job["resize"], lambda n: say(n, [])
    )
    say(0, bad)


if __name__ == "__main__":
    _main()
