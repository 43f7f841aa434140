"""The folder of a run: the names of its files, and who may write there."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from disttrain.config import Config, config_differences, load_config, render_yaml
from disttrain.errors import ConfigError
from disttrain.files import write_atomically
from disttrain.system.owner import OWNER, FolderOwner

CONFIG, DIGESTS, MANIFEST, METRICS, NONFINITE, RESULT, STATUS = (
    "config.yaml", "digests.jsonl", "manifest.json", "metrics.jsonl", "nonfinite.jsonl", "result.json", "status.json",
)  # fmt: skip
MODEL, LOGS, CHECKPOINTS, PROFILE = "model", "logs", "checkpoints", "profile"

_SUCCESSION_S = 120.0  # beyond the time that an NFS server keeps the locks of a client that is gone (90 s)

# What may differ between the start of a run and a later one that goes on with it: nothing here changes the result.
_FREE_FIELDS = ("batch.eval_batch_size", "checkpoint.", "comm.timeout_s", "data.cache_dir", "data.device_budget_mib",
                "data.loader_timeout_s", "data.loader_workers", "data.placement", "data.prefetch_batches",
                "train.check_weights_every_steps", "train.device", "train.log_every_steps",
                "train.nonfinite", "train.profile_steps", "train.record_digests", "train.test_at_end",
                "train.workers", "telemetry.")  # fmt: skip


def default_run_dir(config_path: Path) -> Path:
    """`runs/<name of the config file>`: the same command again finds the same run."""
    return Path("runs") / config_path.stem


def check_run_dir(run_dir: Path, config: Config, resume: str, accept_changes: bool = False) -> None:
    """Raise ConfigError where the run directory cannot be written or, without `accept_changes`, holds the run of
    another config. Changes nothing on disk."""
    folder = run_dir.resolve()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"the run directory {run_dir} cannot be made: {nearest} is a file. Use another --run-dir.")
    if not os.access(nearest, os.W_OK | os.X_OK) or _is_read_only(nearest):
        raise ConfigError(
            f"the run directory {run_dir} is not writable: no permission in {nearest}. Use another --run-dir."
        )
    if resume == "never" and (run_dir / CONFIG).exists() and Path.cwd().is_relative_to(run_dir.resolve()):
        raise ConfigError(
            f"--resume never moves the run directory {run_dir} aside, and the command runs inside it. Start it from "
            "elsewhere, or use another --run-dir."
        )
    if resume == "never" or accept_changes or not (run_dir / CONFIG).exists():
        return
    try:
        before = load_config(run_dir / CONFIG)
    except ConfigError as error:
        raise ConfigError(
            f"the run directory {run_dir} holds a config.yaml that cannot be read ({error}). Use another --run-dir, "
            "or --resume never to start anew there."
        ) from None
    differences = [one for one in config_differences(before, config) if not one.startswith(_FREE_FIELDS)]
    if differences:
        listed = "".join(f"\n  {one}" for one in differences)
        raise ConfigError(
            f"the run directory {run_dir} belongs to a run with another config (there -> now):{listed}\n"
            "Use another --run-dir, or --resume never to start anew there (what it holds is moved aside), or "
            "--accept-changed-config to go on from its checkpoint all the same."
        )


def _is_read_only(folder: Path) -> bool:
    """Whether the file system refuses writes; root passes every permission check, so it has to be asked."""
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def claim_run_dir(run_dir: Path, config: Config, resume: str, job: str = "") -> FolderOwner:
    """Make the folder ready, and this process its owner: on `never`, what a run left there is moved aside first.

    Args:
        job: the same for processes that follow each other in one job: one waits until the one before has ended.
    Raises ConfigError where the folder cannot be written, or another process has it; then nothing is changed.
    """
    with contextlib.ExitStack() as undo:
        try:
            folder = run_dir.resolve()  # behind a link, also one whose target is yet to be made
            folder.mkdir(parents=True, exist_ok=True)
            owner = FolderOwner(folder, job, _SUCCESSION_S)
            undo.callback(owner.close)
            if resume == "never" and (folder / CONFIG).exists():
                _move_aside(folder)
            (folder / LOGS).mkdir(exist_ok=True)
            write_atomically(folder / CONFIG, render_yaml(config))
        except OSError as error:
            raise ConfigError(
                f"the run directory {run_dir} cannot be written: {error.strerror}. Use another --run-dir."
            ) from None
        undo.pop_all()
        return owner


def _move_aside(folder: Path) -> None:
    """Move what a run left to `NAME.old-1`, or the next number. The folder itself stays, with its owner's lock."""
    aside = next(path for n in range(1, 10_000) if not (path := folder.with_name(f"{folder.name}.old-{n}")).exists())
    aside.mkdir()
    for path in sorted(folder.iterdir(), key=lambda one: one.name == CONFIG):  # last: it tells that there is a run
        if path.name != OWNER:
            path.rename(aside / path.name)


def load_result(run_dir: Path) -> dict[str, Any] | None:
    """`result.json` of a run that has finished, else None."""
    try:
        result: dict[str, Any] = json.loads((run_dir / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if result.get("status") == "finished" else None
