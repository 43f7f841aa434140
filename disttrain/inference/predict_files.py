"""`disttrain predict`: a model directory over files, folders, globs and zip files, on any number of ranks.

Every rank takes a contiguous part of the list, so that rank zero only has to put the parts one behind the other.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.device import pick_device
from disttrain.data.batch_plan import rank_slice
from disttrain.data.decode import UnreadableImage, decode_image, image_suffixes
from disttrain.data.file_kind import is_zip
from disttrain.data.image_store import ImageStore, read_image_file
from disttrain.errors import ConfigError, DataError
from disttrain.inference.output_file import open_output
from disttrain.inference.predictor import NOT_FINITE, Predictor, label_of
from disttrain.launch.env import RankEnv
from disttrain.log import log
from disttrain.models.model_dir import ModelSpec, load_model_dir

_BATCH_SIZE = 512
_PIECE = 1 << 20  # characters that travel to rank zero at once


@dataclass(frozen=True)
class _Item:
    """One image to classify."""

    path: str
    """As it is shown."""
    read: Callable[[], bytes]
    """Raises UnreadableImage."""


def predict_files(
    model_dir: Path,
    inputs: Sequence[str],
    output: str | None,
    device_name: str,
    allow_code: bool,
    env: RankEnv,
    control_plane: ControlPlane,
    as_json: bool = False,
) -> None:
    """Classify every image of `inputs` and write the rows in input order: to a file, whose name says in which form, or
    to standard output as CSV or JSON.

    Raises DataError after the last row where some images could not be read; ConfigError or DataError before the first
    where the model or an input is wrong.
    """
    device = control_plane.run_on_all("device", lambda: pick_device(device_name, env))
    model, spec = control_plane.run_on_all("model", lambda: load_model_dir(model_dir, allow_code))
    predictor = control_plane.run_on_all("predictor", lambda: Predictor(model, spec, device))
    control_plane.run_on_all("channels", lambda: check_channels(spec))
    items = control_plane.run_on_all("inputs", lambda: list(_expand(inputs)))
    part = [items[index] for index in rank_slice(len(items), env.rank, env.world_size)]
    as_json = as_json or (output or "").lower().endswith(".jsonl")
    form = _JsonLines() if as_json else _Csv(spec.class_names)
    failed = 0
    with open_output(output) if env.is_rank_zero else _Sender(control_plane) as file:
        if env.is_rank_zero:
            file.write(form.header())
        for row in _predict_rows(predictor, part):
            failed += "error" in row
            file.write(form.line(row))
        if env.is_rank_zero:
            for rank in range(1, env.world_size):
                for piece in control_plane.recv(rank):
                    file.write(piece)
    total_failed = control_plane.sum("unreadable", failed)
    log.info("classified %d of %d images on %d rank(s)", len(items) - total_failed, len(items), env.world_size)
    if total_failed:
        raise DataError(f"{total_failed} of {len(items)} images could not be read: see the error column of their rows.")


def check_channels(spec: ModelSpec) -> None:
    """Raise ConfigError for a model whose images no file holds."""
    if spec.input_shape[0] not in (1, 3):
        raise ConfigError(
            f"this model takes images of shape {list(spec.input_shape)}, and image files are read as 3 channels (RGB) "
            "or 1 (grey). Give it arrays from Python instead."
        )


class _Sender(contextlib.AbstractContextManager["_Sender"]):
    """The writing side of another rank: its text goes to rank zero over the store, in pieces."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane, self._lines, self._length = control_plane, [""], 0

    def write(self, text: str) -> None:
        self._lines.append(text)
        self._length += len(text)
        if self._length > _PIECE:
            self._flush()

    def _flush(self) -> None:
        if self._length:
            self._control_plane.send_to_rank_zero("".join(self._lines))
        self._lines, self._length = [], 0

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            self._flush()
            self._control_plane.send_to_rank_zero("")


def _expand(inputs: Sequence[str]) -> Iterator[_Item]:
    """Files, folders, globs and zips as single images, in the order given; folders and zips sorted by name."""
    for given in inputs:
        paths = [given] if Path(given).exists() else sorted(glob.glob(given, recursive=True))  # noqa: PTH207 (absolute patterns too)
        if not paths and any(sign in given for sign in "*?["):
            raise DataError(f"{given} matches no file.")
        for path in map(Path, paths or [given]):
            # An image may have a zip behind it; a zip has no image's suffix.
            if path.is_dir() or (path.suffix.lower() not in image_suffixes() and is_zip(path)):
                yield from _expand_store(ImageStore(path))
            else:
                yield _Item(str(path), partial(read_image_file, path))


def _expand_store(store: ImageStore) -> Iterator[_Item]:
    listing = store.listing
    if not listing.images and not listing.unreadable:
        suffixes = ", ".join(image_suffixes())
        raise DataError(f"{store.path} holds no images{listing.describe_others()}. Images are {suffixes}.")
    if left_out := listing.describe_left_out():
        log.warning("%s: left out %s", store.path, left_out)
    for name in sorted([*listing.images, *listing.unreadable]):
        reason = listing.unreadable.get(name)
        yield _Item(f"{store.path}/{name}", partial(store.read, name) if reason is None else partial(_fail, reason))


def _fail(reason: str) -> bytes:
    raise UnreadableImage(reason)


def _predict_rows(predictor: Predictor, items: list[_Item]) -> Iterator[dict[str, Any]]:
    for at in range(0, len(items), _BATCH_SIZE):
        batch = items[at : at + _BATCH_SIZE]
        decoded = [_read(item, predictor.spec) for item in batch]
        images = [one for one in decoded if isinstance(one, np.ndarray)]
        probabilities = iter(predictor.probabilities(np.stack(images)) if images else [])
        for item, one in zip(batch, decoded, strict=True):
            row = {"error": one} if isinstance(one, str) else _row(next(probabilities), predictor.spec)
            yield {"path": item.path, **row}


def _read(item: _Item, spec: ModelSpec) -> np.ndarray | str:
    """The image, or why there is none."""
    channels, height, width = spec.input_shape
    try:
        return decode_image(item.read(), (channels, height, width), spec.resize)
    except UnreadableImage as error:
        return str(error)


def _row(probabilities: np.ndarray, spec: ModelSpec) -> dict[str, Any]:
    if not np.isfinite(probabilities).all():
        return {"error": NOT_FINITE}
    label, probability, by_class = label_of(probabilities, spec.class_names)
    return {"label": label, "probability": probability, **{f"p_{name}": value for name, value in by_class.items()}}


class _Csv:
    """Rows as CSV (RFC 4180, newlines as on Unix)."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._columns = ["path", "label", "probability", *(f"p_{name}" for name in class_names), "error"]

    def header(self) -> str:
        return self.line(dict(zip(self._columns, self._columns, strict=True)))

    def line(self, row: dict[str, Any]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerow(row)
        return text.getvalue()


class _JsonLines:
    """Rows as JSON, one object a line."""

    def header(self) -> str:
        return ""

    def line(self, row: dict[str, Any]) -> str:
        return json.dumps(row) + "\n"
