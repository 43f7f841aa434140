"""`disttrain predict`: a model directory over files, folders, globs and zip files, on any number of ranks.

Rank zero lists the images once, on the disk. The ranks take blocks of the list in turns and leave the rows of each in a
file of a folder beside the output (`predict_job.py`), which rank zero puts together at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from logging import INFO
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.device import pick_device
from disttrain.errors import ConfigError, DataError
from disttrain.files import replacing
from disttrain.inference.decoding import DecodedBatch, answers_of, decoded_batches, in_turns
from disttrain.inference.input_list import InputList
from disttrain.inference.onnx_predictor import OnnxPredictor
from disttrain.inference.output_file import open_output
from disttrain.inference.predict_job import CannotWrite, JobFolder, JobPlan, Planner
from disttrain.inference.predict_progress import PredictProgress, is_on_terminal
from disttrain.inference.predict_start import Started, opened_folder, start_job
from disttrain.inference.prediction_rows import RowFormat
from disttrain.inference.predictor import Predictor
from disttrain.launch.env import RankEnv
from disttrain.log import log
from disttrain.models.model_dir import ModelSpec, load_model_dir

_SEEN_WITHIN_S = 30.0  # a client of NFS may remember for some seconds that a file was not there
_POLL_S = 0.1


@dataclass(frozen=True)
class _Work:
    """What a rank needs for its part."""

    folder: JobFolder
    plan: JobPlan
    predictor: Predictor | OnnxPredictor
    form: RowFormat
    env: RankEnv
    quiet: bool

    def blocks(self) -> list[int]:
        """Of this rank. In turns, so that what is slow to read comes to all of them."""
        return self.folder.todo()[self.env.rank :: self.env.world_size]


def predict_files(
    model_dir: Path,
    inputs: Sequence[str],
    output: str | None,
    device_name: str,
    allow_code: bool,
    env: RankEnv,
    control_plane: ControlPlane,
    as_json: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Classify every image of `inputs` and write the rows in input order: to a file, whose name says in which form, or
    to standard output as CSV or JSON. With `resume`, go on with a command that did not come to its end.

    Raises DataError after the last row where some images could not be read; ConfigError or DataError before the first
    where the model or an input is wrong, or does not fit what a command before has left.
    """
    device = control_plane.run_on_all("device", lambda: pick_device(device_name, env))
    predictor = control_plane.run_on_all("model", lambda: _load(model_dir, device_name, device, allow_code))
    spec = predictor.spec
    control_plane.run_on_all("channels", lambda: check_channels(spec))
    as_json = as_json or (output or "").lower().endswith(".jsonl")
    form = RowFormat(spec.class_names, as_json)
    with contextlib.ExitStack() as stack, _explained(output, CannotWrite):
        planner = Planner(spec, as_json, predictor.sha256 if isinstance(predictor, OnnxPredictor) else "")

        def begin() -> Started | None:
            if not env.is_rank_zero:
                return None
            with _explained(output):
                folder = stack.enter_context(opened_folder(output, resume))
                return start_job(folder, inputs, output, planner, resume)

        started = control_plane.run_on_all("inputs", begin, env.is_rank_zero)
        failed, count = _do(started, predictor, form, output, env, control_plane, quiet, resume)
    total_failed = control_plane.sum("unreadable", failed)
    log.info("classified %d of %d images on %d rank(s)", count - total_failed, count, env.world_size)
    if total_failed:
        raise DataError(
            f"{total_failed} of {count} images could not be read, or have no finite probabilities: see the error "
            "column of their rows."
        )


def _load(path: Path, device_name: str, device: torch.device, allow_code: bool) -> Predictor | OnnxPredictor:
    if path.suffix.lower() == ".onnx" and not path.is_dir():
        return OnnxPredictor(path, device_name)
    return Predictor(*load_model_dir(path, allow_code), device)


def check_channels(spec: ModelSpec) -> None:
    """Raise ConfigError for a model whose images no file holds."""
    if spec.input_shape[0] not in (1, 3):
        raise ConfigError(
            f"this model takes images of shape {list(spec.input_shape)}, and image files are read as 3 channels (RGB) "
            "or 1 (grey). Give it arrays from Python instead."
        )


def _do(
    started: Started | None,
    predictor: Predictor | OnnxPredictor,
    form: RowFormat,
    output: str | None,
    env: RankEnv,
    control_plane: ControlPlane,
    quiet: bool,
    resume: bool,
) -> tuple[int, int]:
    """How many rows have an error, as far as this rank is the one to say so; how many images there are."""
    if env.world_size > 1:
        place = json.dumps([str(started.folder.path.absolute()), started.token]) if started else None
        path, token = json.loads(control_plane.broadcast("folder", place))
        folder = JobFolder(Path(path))
        control_plane.run_on_all("folder", lambda: _check_seen(folder, token, env))
    else:
        assert started is not None
        folder = started.folder
    plan = folder.plan()
    if "finished" in folder.record():
        failed: int = folder.record()["finished"]["failed"]
        return (failed if env.is_rank_zero else 0), plan.count
    work = _Work(folder, plan, predictor, form, env, quiet)
    if output is None and env.world_size == 1:
        with open_output(None) as file:
            return _print_rows(work, file), plan.count
    for block, batches in _by_block(work):
        with folder.block(block) as writer:
            for text, errors in batches:
                writer.write(text, errors)
    control_plane.run_on_all("predicted", lambda: None)

    def merge() -> int:
        if not env.is_rank_zero:
            return 0
        with _explained(output):
            with open_output(None) if output is None else replacing(Path(output), durable=True) as file:
                failed = folder.merge(plan, file, form.header())
            if resume and output is not None:
                folder.keep_result(Path(output), failed)
            else:
                folder.clear()
        return failed

    return control_plane.run_on_all("output", merge), plan.count


def _print_rows(work: _Work, file: TextIO) -> int:
    """Rows as they come, where one rank makes all of them."""
    failed = 0
    file.write(work.form.header())
    for _, batches in _by_block(work):
        for text, errors in batches:
            file.write(text)
            failed += errors
    return failed


def _by_block(work: _Work) -> Iterator[tuple[int, Iterator[tuple[str, int]]]]:
    """Every block of this rank with (rows, how many have an error) of each of its batches, to be taken at once."""
    plan, folder, blocks = work.plan, work.folder, work.blocks()
    inputs = InputList.load(folder.path, plan.count, plan.inputs)
    spec, cores = work.predictor.spec, len(os.sched_getaffinity(0))
    ranges = [one for block in blocks for one in plan.batches(block)]
    decoded = decoded_batches(inputs, ranges, spec, max(1, cores // work.env.local_world_size))
    if isinstance(work.predictor, OnnxPredictor) or work.predictor.device.type == "cpu":
        decoded = in_turns(decoded)
    printed = 0  # by blocks of which no file is kept

    def count_done() -> int:
        return max(printed, folder.images_done(plan))

    shown = work.env.is_rank_zero and not work.quiet and log.isEnabledFor(INFO)
    progress = PredictProgress(plan.count, folder.images_done(plan), count_done, shown, is_on_terminal())

    def rows(block: int) -> Iterator[tuple[str, int]]:
        in_hand = 0
        for _ in plan.batches(block):
            with progress.timed("waiting for decoded images"):
                batch = next(decoded)
            with progress.timed("network"):
                probabilities = _probabilities(work.predictor, batch)
            with progress.timed("rows"):
                rendered = work.form.render(batch.paths, answers_of(batch, probabilities))
            yield rendered
            in_hand += len(batch.paths)
            progress.update(in_hand)

    for block in blocks:
        yield block, rows(block)
        printed += sum(map(len, plan.batches(block)))
    progress.close()


def _probabilities(predictor: Predictor | OnnxPredictor, batch: DecodedBatch) -> np.ndarray:
    if not len(batch.images):
        return np.empty((0, len(predictor.spec.class_names)), np.float32)
    return predictor.probabilities(batch.images.numpy())


def _check_seen(folder: JobFolder, token: str, env: RankEnv) -> None:
    """Raise ConfigError where this rank does not see the folder that rank zero has begun."""
    deadline = time.monotonic() + _SEEN_WITHIN_S
    while folder.record().get("token") != token:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"rank {env.rank} does not see {folder.path}, in which ranks leave their rows for rank 0: give "
                "--output FILE in a folder that all nodes see."
            )
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _explained(output: str | None, kind: type[OSError] = OSError) -> Iterator[None]:
    """What the disk refuses, as one message."""
    try:
        yield
    except kind as error:
        own = str(tempfile.gettempdir()) if output is None else output
        if error.filename is not None and not str(error.filename).startswith(own):
            raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None
        where = "the folder for temporary files (TMPDIR)" if output is None else f"--output {output}"
        is_kept = output is not None and JobFolder(Path(f"{output}.parts")).record()
        kept = f" What is done is kept in {output}.parts: make room and go on by --resume." if is_kept else ""
        raise DataError(f"{where} cannot be written: {error.strerror or error}.{kept}") from None
