"""Damaged files against every reader: `python -m tests.field.fuzz --seconds 120 --seed 7`.

Real files of each kind are mutated; a reader may return what it should, or raise DataError (UnreadableImage is one) or,
for a config, ConfigError.
Anything else is a fault: another exception, pixels of another shape, a case that takes longer than LIMIT_S. Case k of a
seed is the same bytes on every machine with the same Pillow: `--seed S --only K` runs it again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import gzip
import io
import itertools
import json
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from disttrain.config import load_config, render_yaml
from disttrain.data.class_tree import arrange
from disttrain.data.datasets.mnist import _read_idx
from disttrain.data.datasets.planesnet import _read_json
from disttrain.data.decode import decode_image, image_size
from disttrain.data.image_store import ImageStore
from disttrain.errors import ConfigError, DataError

from .mutations import JSON_MUTATIONS, MUTATIONS, YAML_MUTATIONS, Mutation

SIDE = 12
LIMIT_S = 60.0
"""A case that takes longer ends the program with the stack of where it stands."""


def _picture() -> Image.Image:
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8))


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def image_files() -> dict[str, bytes]:
    """One good file for each way in which images are stored."""
    image, exif = _picture(), Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(np.random.RandomState(1).randint(0, 65536, (SIDE, SIDE)).astype(np.uint16))
    files = {
        "png": _encoded(image, "PNG", exif=exif),
        "png palette": _encoded(image.quantize(16), "PNG", transparency=b"\0\x80\xff"),
        "png 16 bits": _encoded(grey16, "PNG"),
        "jpeg": _encoded(image, "JPEG", exif=exif),
        "jpeg progressive": _encoded(image, "JPEG", progressive=True),
        "jpeg cmyk": _encoded(image.convert("CMYK"), "JPEG"),
        "gif": _encoded(image.quantize(16), "GIF", save_all=True, append_images=[image.quantize(8)], transparency=1),
        "tiff": _encoded(image, "TIFF", exif=exif),
        "tiff lzw": _encoded(image, "TIFF", compression="tiff_lzw"),
        "tiff 16 bits": _encoded(grey16, "TIFF"),
        "tiff 1 bit": _encoded(image.convert("1"), "TIFF", compression="group4"),
    }
    Image.init()
    for form in ("BMP", "PPM", "TGA", "PCX", "SGI", "WEBP", "JPEG2000", "ICO", "QOI", "AVIF"):
        if form in Image.SAVE:
            files[form.lower()] = _encoded(image, form)
    return files


def _zip(compression: int) -> bytes:
    names = ("train/a/1.png", "train/b\\2.png", "test/a/3.png", "test/b/4.png", "notes.txt")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("", *names):
            info = zipfile.ZipInfo(f"top/{name}")  # dated 1980: the same bytes each time
            archive.writestr(info, _encoded(_picture(), "PNG") if name else b"", compression)
    return buffer.getvalue()


def _idx() -> bytes:
    return bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6]) + bytes(range(120))


def _json() -> bytes:
    content = {
        "data": [[7] * 1200, [200] * 1200],
        "labels": [0, 1],
        "scene_ids": ["a", "b"],
        "locations": [[0.5, 1], [2, 3]],
    }
    return json.dumps(content).encode()


def _yaml() -> bytes:
    """A shipped config, with every kind of value that YAML has."""
    kwargs = (
        "  kwargs: {widths: [8, 16], name: 'x', ratio: 1.5e-1, flag: true, empty: null, base: &b {a: 1}, m: {<<: *b}}"
    )
    shipped = (Path(__file__).resolve().parents[2] / "configs/planesnet.yaml").read_text(encoding="utf-8")
    return shipped.replace("model:\n", f"model:\n{kwargs}\n").encode()


# The readers, each given the bytes of a damaged file.


def _read_image(data: bytes, draw: random.Random, folder: Path) -> None:
    channels, resize = draw.choice((1, 3)), draw.random() < 0.5
    if draw.random() < 0.2:
        height, width = image_size(data)
        assert height > 0
        assert width > 0
    pixels = decode_image(data, (channels, SIDE, SIDE), resize)
    assert pixels.shape == (channels, SIDE, SIDE)
    assert pixels.dtype == np.uint8


def _read_zip(data: bytes, draw: random.Random, folder: Path) -> None:
    path = folder / "damaged.zip"
    path.write_bytes(data)
    store = ImageStore(path)
    tree = None
    with contextlib.suppress(DataError):
        tree = arrange(store.listing, path)
    assert tree is None or sorted(tree.names) == store.names()
    failed = 0
    for name in store.names():
        try:
            assert decode_image(store.read(name), (3, SIDE, SIDE)).shape == (3, SIDE, SIDE)
        except DataError:
            failed += 1
    if failed:
        raise DataError(f"{failed} unreadable")


def _read_idx_file(data: bytes, draw: random.Random, folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(data)
    assert _read_idx(path).dtype == np.uint8


def _read_json_file(data: bytes, draw: random.Random, folder: Path) -> None:
    path = folder / "planesnet.json"
    path.write_bytes(data)
    arrays = _read_json(path)
    assert arrays.images.dtype == np.uint8
    assert arrays.images.shape[1:] == (3, 20, 20)
    assert set(arrays.labels.tolist()) <= {0, 1}
    assert all(arrays.scene_names)


def _read_config(data: bytes, draw: random.Random, folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_bytes(data)
    config = load_config(path)
    path.write_text(render_yaml(config), encoding="utf-8")  # what a run directory keeps says the same
    assert load_config(path) == config


@dataclass(frozen=True)
class Target:
    """One kind of file and who reads it."""

    name: str
    good: bytes
    read: Callable[[bytes, random.Random, Path], None]
    mutations: tuple[Mutation, ...] = MUTATIONS


def targets() -> list[Target]:
    """All kinds of files; each takes the same number of cases."""
    return [
        *(Target(name, data, _read_image) for name, data in image_files().items()),
        *(
            Target(f"zip {name}", _zip(kind), _read_zip)
            for name, kind in (
                ("stored", zipfile.ZIP_STORED),
                ("deflated", zipfile.ZIP_DEFLATED),
                ("bzip2", zipfile.ZIP_BZIP2),
                ("lzma", zipfile.ZIP_LZMA),
            )
        ),
        Target("idx", _idx(), _read_idx_file),
        Target("idx gzipped", gzip.compress(_idx(), mtime=0), _read_idx_file),
        Target("json", _json(), _read_json_file, JSON_MUTATIONS),
        Target("config", _yaml(), _read_config, YAML_MUTATIONS),
    ]


@dataclass
class Outcome:
    """What came of the cases so far."""

    cases: int = 0
    refused: int = 0
    by_target: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)

    def render(self) -> str:
        """The counts in one line, and every fault with how to run it again."""
        counts = f"{self.cases} damaged files of {len(self.by_target)} kinds: {self.refused} refused, "
        counts += f"{self.cases - self.refused - len(self.faults)} read, {len(self.faults)} faults"
        return "\n".join([counts, *self.faults])


def run_case(kinds: list[Target], seed: int, number: int, folder: Path, outcome: Outcome) -> None:
    """One damaged file, made from (seed, number) alone, and what its reader does with it."""
    draw = random.Random(f"{seed} {number}")
    target = kinds[number % len(kinds)]
    data = bytearray(target.good)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if data:
            draw.choice(target.mutations)(draw, data)
    outcome.cases += 1
    outcome.by_target[target.name] += 1
    try:
        target.read(bytes(data), draw, folder)
    except (ConfigError, DataError) as error:
        outcome.refused += 1
        if not str(error).strip():
            outcome.faults.append(f"--seed {seed} --only {number} ({target.name}): a refusal without a reason")
    except Exception:
        outcome.faults.append(f"--seed {seed} --only {number} ({target.name}): {traceback.format_exc()}")


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """libtiff writes about damage to standard error itself; the stack of a crash still comes there."""
    kept = os.dup(2)
    with os.fdopen(kept, "w") as console, open(os.devnull, "w") as nowhere:
        faulthandler.enable(console)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            faulthandler.enable()


def fuzz(seconds: float, seed: int, only: int | None = None) -> Outcome:
    """Run cases 0, 1, 2 ... of a seed for so many seconds, or one of them."""
    outcome, kinds = Outcome(), targets()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about what is damaged
        for number in itertools.count() if only is None else [only]:
            if only is None and time.monotonic() > end:
                break
            faulthandler.dump_traceback_later(LIMIT_S, exit=True)
            run_case(kinds, seed, number, Path(folder), outcome)
        faulthandler.cancel_dump_traceback_later()
    return outcome


def main() -> int:
    """The command line; the exit code says whether there was a fault."""
    parser = argparse.ArgumentParser(description="Damaged files against every reader of images and datasets.")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", type=int, help="one case of the seed")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with _quiet_libraries():
        outcome = fuzz(arguments.seconds, arguments.seed, arguments.only)
    print(outcome.render())
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
