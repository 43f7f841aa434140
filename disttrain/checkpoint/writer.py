"""Saving while training goes on: the step pays for a copy to host memory, a thread of each rank writes its shard, and
rank zero's makes a checkpoint of them. All nodes must see the same folder: it is a shared file system's business to
bring the shards together, and where it does not, the log says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed import DistError, Store

from disttrain.checkpoint.folder import (
    VALUES,
    FileRecord,
    checkpoint_dir,
    remove_unfinished,
    shard_name,
    unfinished_dir,
    write_manifest,
    write_text,
)
from disttrain.checkpoint.host_buffer import HostBuffer
from disttrain.checkpoint.retention import prune
from disttrain.checkpoint.save_agreement import SaveAgreement, SaveTimeout, Shard
from disttrain.checkpoint.values import CheckpointValues
from disttrain.config.sections import CheckpointConfig
from disttrain.files import replace_folder
from disttrain.log import log

# How long rank zero waits for the others' shards, and they for what it makes of them, once their own part is done.
_PATIENCE_S, _PATIENCE_FACTOR = 60.0, 5.0
_VISIBLE_S = 45.0  # by then a network file system shows on one node what another has written (NFS: 30 s to 60 s)
_NICE = 10  # the writing threads leave the processor to the training


@dataclass(frozen=True)
class _Save:
    """One checkpoint on its way to the disk."""

    step: int
    number: int
    values: str
    began: float


class CheckpointWriter:
    """Writes checkpoints, one at a time. A checkpoint that cannot be written (a full disk, a folder that has gone, a
    rank that has failed to write its shard) costs a warning; the last good one stands, and the next is tried anew.

    Made on every rank; `save` and `wait` are called on every rank, in the same order.
    """

    def __init__(self, folder: Path, store: Store, rank: int, world_size: int, config: CheckpointConfig) -> None:
        """
        Args:
            folder: for the checkpoints of this run; made when it is needed, also when it has vanished meanwhile.
            store: a connection for the threads alone: nothing that the training waits for may use it.
        """
        self.folder, self.rank, self.world_size, self.config = folder, rank, world_size, config
        self.saved_step: int | None = None
        """The step of the last checkpoint that this writer has brought to the disk."""
        self.last_save_s: float | None = None
        """Seconds from the beginning of its copy until it was there, the same thing seen from each rank."""
        self._copy = HostBuffer()
        self._count = 0
        self._thread: threading.Thread | None = None
        if rank == 0:
            remove_unfinished(folder)
        self._agreement = SaveAgreement(store, rank, world_size)

    def save(self, tensors: dict[str, torch.Tensor], values: CheckpointValues) -> None:
        """Wait for the save before, copy this rank's tensors, and leave the rest to a thread.

        Of `values` those of rank zero are written. Raises ConfigError for a tensor of a type that no file can hold.
        """
        self.wait()
        began = time.monotonic()
        text = values.to_json()
        self._copy.take(tensors)
        self._count += 1
        save = _Save(values.step, self._count, text, began)
        self._thread = threading.Thread(target=self._finish, args=(save,), name="checkpoint writer", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until no save is on its way: rank zero has made a checkpoint of it or given up. False after `timeout_s`."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._thread = None
        return True

    def close(self, timeout_s: float = 2.0) -> None:
        """Give a save that is on its way this long, in seconds; then stop waiting for other ranks."""
        if not self.wait(timeout_s):
            self._agreement.stop()
            self.wait(timeout_s)

    def _finish(self, save: _Save) -> None:
        """In the thread: from the copy to a checkpoint, or a warning."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # on Linux: this thread's alone
        unfinished: Path | None = None
        says_why = self.rank == 0
        try:
            name = f"{self._agreement.start_id(_PATIENCE_S)}.{save.number}"
            unfinished = unfinished_dir(self.folder, save.step, name)
            fault = self._write_and_agree(save, unfinished)
        except (SaveTimeout, DistError) as error:
            fault, says_why = " ".join(str(error).split()), True
        if not fault:
            self.saved_step, self.last_save_s = save.step, time.monotonic() - save.began
            return
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
        if says_why:
            log.warning("the checkpoint of step %d was not written: %s", save.step, fault)

    def _write_and_agree(self, save: _Save, unfinished: Path) -> str:
        """Why there is no checkpoint, "" where there is one. Raises SaveTimeout or DistError."""
        began = time.monotonic()
        shard = self._write_shard(unfinished)
        self._agreement.post(save.number, shard)
        patience_s = max(_PATIENCE_S, _PATIENCE_FACTOR * (time.monotonic() - began))
        if self.rank != 0:
            return self._agreement.outcome(save.number, 2 * patience_s + _VISIBLE_S)
        try:
            fault = self._make_checkpoint(save, unfinished, self._agreement.shards(save.number, patience_s))
        except SaveTimeout as error:
            fault = str(error)
        except OSError as error:
            fault = _render(error)
        self._agreement.publish_outcome(save.number, fault)
        return fault

    def _write_shard(self, unfinished: Path) -> Shard:
        host = socket.gethostname()
        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            if self._copy.is_empty:
                return Shard(self.rank, host)
            record = self._copy.write(unfinished / shard_name(self.rank))
        except OSError as error:
            with contextlib.suppress(OSError):
                (unfinished / shard_name(self.rank)).unlink()  # others may still need its space
            return Shard(self.rank, host, fault=_render(error))
        return Shard(self.rank, host, record.bytes, record.sha256)

    def _make_checkpoint(self, save: _Save, unfinished: Path, shards: list[Shard]) -> str:
        """On rank zero. Why it cannot be done, or "". Raises OSError."""
        if faults := [shard for shard in shards if shard.fault]:
            return "; ".join(f"rank {shard.rank} on {shard.host}: {shard.fault}" for shard in faults)
        files: dict[str, FileRecord] = {}
        deadline = time.monotonic() + _VISIBLE_S
        for shard in (one for one in shards if one.bytes):
            name = shard_name(shard.rank)
            while not _has_size(unfinished / name, shard.bytes):
                if shard.rank == self.rank:
                    return f"{name} has vanished from {unfinished.parent}"
                if time.monotonic() > deadline:
                    return (
                        f"rank {shard.rank} on {shard.host} has written {name} ({shard.bytes:,} bytes), but rank 0 on "
                        f"{socket.gethostname()} does not see it in {unfinished.parent}: checkpoints need a folder "
                        "that all nodes share. Put the run directory (--run-dir) on a shared file system"
                    )
                time.sleep(0.1)
            files[name] = FileRecord(shard.bytes, shard.sha256)
        files[VALUES] = write_text(unfinished / VALUES, save.values)
        write_manifest(unfinished, save.step, self.world_size, files)
        target = checkpoint_dir(self.folder, save.step)
        replace_folder(unfinished, target, durable=True)
        try:
            prune(target, self.config)
        except OSError as error:
            log.warning("the checkpoint of step %d is written, but not all that follows: %s", save.step, _render(error))
        return ""


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _render(error: OSError) -> str:
    """`No space left on device (step_00000010/tensors_0.safetensors)`."""
    where = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
    return f"{error.strerror or error}{where}"
