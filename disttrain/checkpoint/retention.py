"""Which checkpoints stay, what `latest` and `best` name, and which one to go on from."""

from __future__ import annotations

import math
from pathlib import Path

from disttrain.checkpoint.folder import find_fault, read_values, step_of
from disttrain.config.sections import CheckpointConfig
from disttrain.errors import IntegrityError
from disttrain.files import remove_folder, write_atomically
from disttrain.log import log

LATEST, BEST = "latest", "best"


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder, whole or not."""
    found = {path: step for path in folder.glob("*") if (step := step_of(path)) is not None}
    return sorted(found, key=found.__getitem__, reverse=True)


def find_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; each one that is not is named in the log, with the reason.

    Raises IntegrityError where there are checkpoints and none of them can be trusted.
    """
    candidates = newest_first(folder)
    for path in candidates:
        fault = find_fault(path)
        if fault is None:
            return path
        log.warning("checkpoint %s is refused: %s", path, fault)
    if candidates:
        raise IntegrityError(
            f"none of the {len(candidates)} checkpoints in {folder} can be trusted (the reasons are above). Restore "
            "one from a copy, or start anew with --resume never."
        )
    return None


def prune(written: Path, config: CheckpointConfig) -> None:
    """After a checkpoint has been written: point `latest` to it and `best` to the best one, and drop all but these two
    and the newest `config.keep`. Raises OSError."""
    folder = written.parent
    _point(folder / LATEST, written)
    checkpoints = newest_first(folder)
    # Later checkpoints belong to an abandoned branch: they are damaged, or --resume named this one.
    branch = checkpoints[checkpoints.index(written) :]
    best = _best(branch, config)
    if best is not None:
        _point(folder / BEST, best)
    else:
        (folder / BEST).unlink(missing_ok=True)
    if later := checkpoints[: checkpoints.index(written)]:
        log.warning("%s: training has gone back behind it, and it is removed", ", ".join(one.name for one in later))
    stay = {*branch[: config.keep], best}
    for path in checkpoints:
        if path not in stay:
            remove_folder(path)


def _best(checkpoints: list[Path], config: CheckpointConfig) -> Path | None:
    """The one with the best validation figure, of equal ones the first; None where none has one."""
    figures: dict[Path, float] = {}
    for path in reversed(checkpoints):
        try:
            score = read_values(path).validation
        except (OSError, ValueError):
            continue
        figure = None if score is None else score.figure(config.best)
        if figure is not None and math.isfinite(figure):
            figures[path] = figure if config.best == "loss" else -figure
    return min(figures, key=figures.__getitem__) if figures else None


def _point(pointer: Path, checkpoint: Path) -> None:
    """Replace a pointer by one that is on the disk, unless it points there already."""
    text = checkpoint.name + "\n"
    if pointer.is_file() and pointer.read_text(errors="replace") == text:
        return
    write_atomically(pointer, text, durable=True)
