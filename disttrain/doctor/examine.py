"""One examination: each process gathers its facts, rank zero collects them all and judges."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disttrain.doctor.allreduce import sweep
from disttrain.doctor.checks import CHECKS
from disttrain.doctor.facts.gather import Request, gather, hosts_by_rank
from disttrain.doctor.facts.model import Facts, Job
from disttrain.doctor.facts.network import interface_towards
from disttrain.doctor.finding import Check, Finding, judge
from disttrain.doctor.meeting import Line, Message, attend, gathered
from disttrain.errors import DisttrainError, PeerLostError
from disttrain.launch.env import RankEnv
from disttrain.launch.env.launchers import slurm_hosts
from disttrain.system.marker import find_marker, write_marker
from disttrain.system.processes import run_with_timeout

_SWEEP_S, _LOOK_S, _PATIENCE_S, _PINGS = 90.0, 20.0, 5.0, 3

Lines = Mapping[int, Line]


@dataclass(frozen=True)
class Examination:
    """What rank zero hands out at the end, to the user and, as an exit code, to the other ranks."""

    everyone: list[Facts]
    findings: list[Finding]

    @property
    def nodes(self) -> list[str]:
        """The hosts that were seen, that of rank zero first, and those that are missing."""
        missing = self.everyone[0].job.missing_hosts.values()
        return list(dict.fromkeys([*(one.host for one in self.everyone), *missing]))

    @property
    def exit_code(self) -> int:
        """1 where anything failed."""
        return int(any(one.status == "fail" for one in self.findings))


def chosen_checks(request: Request) -> list[Check]:
    """All, or those of a job."""
    return [check for check in CHECKS if check.in_job or not request.job]


def examine(request: Request, env: RankEnv, launch_error: str | None = None) -> Examination | int:
    """All findings on rank zero, which is the only process where there is no launcher; on other ranks the exit code.

    Raises PeerLostError on a rank that does not reach rank zero.
    """
    facts = gather(request, env, launch_error)
    if env.world_size == 1:
        return Examination([facts], judge(chosen_checks(request), [facts]))
    if env.rank != 0:
        return attend(env, facts.model_dump(mode="json"), _services(request, env, facts), request.wait_s)
    with contextlib.ExitStack() as stack:
        lines: dict[int, Line] = {}
        told: list[Message] = []
        error = None
        try:
            lines, told = stack.enter_context(gathered(env, request.wait_s))
        except PeerLostError as lost:
            error = str(lost)
        examination = _as_rank_zero(request, env, facts, lines, told, error)
        for line in lines.values():
            with contextlib.suppress(OSError):
                line.send({"ask": "end", "code": examination.exit_code})
    return examination


def _as_rank_zero(
    request: Request, env: RankEnv, own: Facts, lines: dict[int, Line], told: list[Message], error: str | None
) -> Examination:
    by_rank, twice = {0: own}, {0: [own.host]}
    for facts in (Facts.model_validate(hello["facts"]) for hello in told):
        by_rank.setdefault(facts.rank, facts)
        twice.setdefault(facts.rank, []).append(facts.host)
    missing = [] if error else [rank for rank in range(1, env.world_size) if rank not in lines]
    hosts = _hosts(env)
    job = Job(
        met=True,
        meeting_error=error,
        missing=missing,
        missing_hosts={rank: hosts[rank] for rank in missing if rank in hosts},
        waited_s=request.wait_s,
        twice={rank: names for rank, names in twice.items() if len(names) > 1},
    )
    lost: dict[int, str] = {}
    _compare_clocks(by_rank, lines, lost)
    _look_for_run_dir(by_rank, lines, lost)
    if not request.job and not error:
        job = job.model_copy(update=_try_allreduce(by_rank, lines, lost, job, env))
    network = own.network.model_copy(update={"towards": _route(by_rank, lines)})
    by_rank[0] = by_rank[0].model_copy(update={"job": job.model_copy(update={"lost": lost}), "network": network})
    everyone = sorted(by_rank.values(), key=lambda one: (one.local_rank, one.rank))
    return Examination(everyone, judge(chosen_checks(request), everyone))


def _hosts(env: RankEnv) -> dict[int, str]:
    """Rank -> host, where the launcher tells it."""
    return hosts_by_rank(env, slurm_hosts(os.environ) if env.launcher == "slurm" else [])


def _route(by_rank: Mapping[int, Facts], lines: Lines) -> str | None:
    """The interface by which rank zero reaches another node: to its own host leads `lo`."""
    other = next((rank for rank in _first_of_nodes(by_rank) if rank in lines), None)
    own = by_rank[0].network.towards
    return own if other is None or not own else interface_towards(lines[other].peer)


def _asked(
    lines: Lines, ranks: Iterable[int], lost: dict[int, str], what: str, timeout_s: float, **details: Any
) -> dict[int, Message]:
    """The answers of these ranks, all asked before the first is waited for; who does not answer is `lost`."""
    asked = []
    for rank in ranks:
        if rank in lines and rank not in lost:
            try:
                lines[rank].send({"ask": what, **details})
                asked.append(rank)
            except OSError as error:
                lost[rank] = str(error)
    answers = {}
    for rank in asked:
        try:
            answers[rank] = lines[rank].recv(timeout_s)
        except OSError as error:
            lost[rank] = str(error)
    return answers


def _first_of_nodes(by_rank: Mapping[int, Facts]) -> Iterator[int]:
    """The ranks that speak for their nodes, without rank zero's node."""
    seen = {by_rank[0].host}
    for rank, facts in sorted(by_rank.items()):
        if facts.host not in seen:
            seen.add(facts.host)
            yield rank


def _compare_clocks(by_rank: dict[int, Facts], lines: Lines, lost: dict[int, str]) -> None:
    for rank in list(_first_of_nodes(by_rank)):
        best: tuple[float, float] | None = None  # the quickest answer tells best
        for _ in range(_PINGS):
            wall, began = time.time(), time.monotonic()
            answer = _asked(lines, [rank], lost, "time", 5.0).get(rank)
            if answer is not None:
                took = time.monotonic() - began
                seen = (took, float(answer["time"]) - wall - took / 2)
                best = seen if best is None else min(best, seen)
        if best is not None:  # what is certain of it: the way there and back may have taken different times
            certain = math.copysign(max(0.0, abs(best[1]) - best[0] / 2), best[1])
            by_rank[rank] = by_rank[rank].model_copy(update={"clock_offset_s": certain})


def _look_for_run_dir(by_rank: dict[int, Facts], lines: Lines, lost: dict[int, str]) -> None:
    disk, nodes = by_rank[0].disk, list(_first_of_nodes(by_rank))
    if disk.run_dir is None or disk.run_dir_error is not None or not nodes:
        return
    folder = Path(disk.run_dir).absolute()
    try:
        marker = write_marker(folder)
    except OSError:
        return
    try:
        place = os.path.relpath(marker, folder)
        for rank, answer in _asked(lines, nodes, lost, "look", _LOOK_S, place=place).items():
            seen = by_rank[rank].disk.model_copy(update={"shared_error": answer.get("error")})
            by_rank[rank] = by_rank[rank].model_copy(update={"disk": seen})
    finally:
        with contextlib.suppress(OSError):
            marker.unlink()


def _try_allreduce(
    by_rank: dict[int, Facts], lines: Lines, lost: dict[int, str], job: Job, env: RankEnv
) -> dict[str, Any]:
    if job.missing or lost or job.twice:
        return {"not_tried": "not all ranks are there"}
    if any(one.versions.torch_error or "torch" not in one.versions.found for one in by_rank.values()):
        return {"not_tried": "torch is not usable on every rank"}
    if len({one.versions.found["torch"] for one in by_rank.values()}) > 1:
        return {"not_tried": "the nodes have different versions of torch"}
    if by_rank[0].wanted.device == "cuda" and not (by_rank[0].gpus.all or by_rank[0].gpus.devices):
        return {"not_tried": "there is no GPU"}
    device = by_rank[0].wanted.device
    for line in lines.values():
        with contextlib.suppress(OSError):
            line.send({"ask": "allreduce", "device": device})
    own = _sweep(env, device)
    errors = {0: own["error"]} if "error" in own else {}
    for rank, line in lines.items():
        try:
            answer = line.recv(_SWEEP_S)
            errors |= {rank: answer["error"]} if "error" in answer else {}
        except OSError as error:
            lost[rank] = str(error)
    if errors:
        rank = min(errors)
        return {"allreduce_error": f"rank {rank} on {by_rank[rank].host}: {errors[rank]}"}
    return {"backend": own["backend"], "allreduce_s": {int(size): s for size, s in own["seconds"].items()}}


def _sweep(env: RankEnv, device: str) -> dict[str, Any]:
    try:
        return run_with_timeout(_SWEEP_S - 5, lambda: sweep(env, device))
    except Exception as error:
        text = str(error).strip().splitlines()
        shown = text[0] if text else "no reason given"
        return {"error": shown if isinstance(error, DisttrainError) else f"{type(error).__name__}: {shown}"}


def _services(request: Request, env: RankEnv, facts: Facts) -> Mapping[str, Any]:
    """What this rank answers to rank zero's questions."""

    def look(asked: Message) -> Message:
        if request.run_dir is None:
            return {"error": "no run directory is named here"}
        return {"error": find_marker(request.run_dir, str(asked["place"]), _PATIENCE_S)}

    return {
        "time": lambda _: {"time": time.time()},
        "look": look,
        "allreduce": lambda asked: _sweep(env, str(asked["device"])),
    }
