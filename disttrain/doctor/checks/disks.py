"""The run directory and the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from disttrain.doctor.checks.units import size, speed
from disttrain.doctor.facts.model import Facts
from disttrain.doctor.finding import Check, Found, Status

_MIB = 1 << 20
_LEAST = 64 * _MIB  # logs, metrics and the model beside the checkpoints
_UNKNOWN = 256 * _MIB  # for a checkpoint, where there is none yet
_LOCAL = ("tmpfs", "ramfs", "overlay")


def _writable(facts: Facts) -> Iterator[Found]:
    disk = facts.disk
    if disk.run_dir is not None:
        yield Found("fail" if disk.run_dir_error else "ok", f"{disk.run_dir}: {disk.run_dir_error or 'writable'}")


def _space(facts: Facts) -> Iterator[Found]:
    disk = facts.disk
    if disk.run_dir is None or disk.free is None:
        return
    one = disk.checkpoint or _UNKNOWN
    most = (facts.wanted.keep + 2) * one + _LEAST  # beside those that are kept: the best, and the one being written
    least = (2 * disk.checkpoint if disk.checkpoint else 0) + _LEAST
    status: Status = "fail" if disk.free < least else "warn" if disk.free < most else "ok"
    need = f"a checkpoint has {size(one)}" if disk.checkpoint else "no checkpoint to measure yet"
    yield Found(status, f"{size(disk.free)} free; checkpoint.keep={facts.wanted.keep}, {need}")


def _speed(facts: Facts) -> Iterator[Found]:
    disk, rate = facts.disk, facts.disk.write_speed
    if not rate:
        return
    needed_s = (disk.checkpoint or 0) / rate
    slow = needed_s > facts.wanted.notice_s
    shown = f": a checkpoint of {size(disk.checkpoint)} takes {needed_s:.1f} s" if disk.checkpoint else ""
    yield Found(
        "warn" if slow else "ok",
        f"{speed(rate)} on {disk.file_system or 'its file system'}{shown}"
        if slow or disk.checkpoint
        else f"written and flushed on {disk.file_system or 'its file system'}",
    )


def _shared(everyone: Sequence[Facts]) -> Iterator[Found]:
    if len({one.host for one in everyone}) < 2 or everyone[0].disk.run_dir is None:
        return
    wrong = [one for one in everyone if one.disk.run_dir is not None and one.disk.shared_error is not None]
    for one in wrong:
        yield Found(
            "fail",
            f"the run directory {one.disk.run_dir} on {one.host} is not the one of rank 0's host: "
            f"{one.disk.shared_error}",
            (one.host,),
        )
    if not wrong and everyone[0].disk.run_dir_error is None:
        yield Found("ok", f"all nodes see {everyone[0].disk.run_dir}")


def _data(facts: Facts) -> Iterator[Found]:
    disk = facts.disk
    if disk.data is not None:
        yield Found("fail" if disk.data_error else "ok", f"{disk.data}: {disk.data_error or 'readable'}")


def _data_same(everyone: Sequence[Facts]) -> Iterator[Found]:
    without = {one.host: one.disk.data_error for one in everyone if one.disk.data is not None and one.disk.data_error}
    having = {one.host for one in everyone if one.disk.data is not None and not one.disk.data_error}
    if having:
        for host, error in without.items():
            yield Found("fail", f"{everyone[0].disk.data}: {error}, and other nodes have it", (host,))


CHECKS = [
    Check(
        "run-directory",
        "The run directory can be written.",
        "Use another --run-dir, or make room and give this user write permission there.",
        node=_writable,
    ),
    Check(
        "run-directory-space",
        "The disk of the run directory has room for checkpoint.keep + 2 checkpoints and 64 MiB.",
        "Make room, use a --run-dir on another disk, or a smaller checkpoint.keep.",
        node=_space,
    ),
    Check(
        "run-directory-speed",
        "A checkpoint is written within checkpoint.notice_s, the time between the request to stop and the end.",
        "Use a faster disk for --run-dir, or have the scheduler give more notice (checkpoint.notice_s).",
        node=_speed,
    ),
    Check(
        "run-directory-shared",
        "All nodes see one run directory.",
        "Use a --run-dir on a shared disk.",
        job=_shared,
    ),
    Check(
        "data",
        "The data is there and readable.",
        "Correct data.path, mount the disk on this node, or give this user read permission.",
        node=_data,
        in_job=False,
    ),
    Check(
        "data-everywhere",
        "Data that one node has, all have.",
        "Mount the disk on this node, or copy the data there.",
        job=_data_same,
    ),
]
