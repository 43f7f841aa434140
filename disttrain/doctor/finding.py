"""What a check finds, and what a check is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from disttrain.doctor.facts.model import Facts

Status = Literal["ok", "warn", "fail"]
_ORDER: tuple[Status, ...] = ("fail", "warn", "ok")


class Found(NamedTuple):
    """A check's answer: the value that it looked at. `nodes` where it is not that of the process whose facts they are.
    `remedy` where there is a better one than the check's."""

    status: Status
    value: str
    nodes: tuple[str, ...] = ()
    remedy: str = ""


Look = Callable[[Facts], Iterable[Found]]
LookAcross = Callable[[Sequence[Facts]], Iterable[Found]]


@dataclass(frozen=True)
class Check:
    """One rule. A check that has nothing to look at finds nothing.

    Args:
        rank, node, job: the function that looks, at the facts of each rank, of one rank of each node, or of all ranks.
        in_job: whether it is among those that a job makes on every node before it trains.
        of_node: whether what it finds is a matter of the node, so that the job might run on another one.
    """

    name: str
    rule: str
    remedy: str
    rank: Look | None = None
    node: Look | None = None
    job: LookAcross | None = None
    in_job: bool = True
    of_node: bool = True


@dataclass(frozen=True)
class Finding:
    """One line of the report; the same on several nodes is one finding."""

    check: str
    status: Status
    value: str
    rule: str
    remedy: str
    nodes: tuple[str, ...] = field(default=())


def judge(checks: Iterable[Check], everyone: Sequence[Facts]) -> list[Finding]:
    """All findings: the worst first, in the order of the checks; the same finding of several nodes once."""
    merged: dict[tuple[str, Status, str, str], list[str]] = {}
    known = {}
    for check in checks:
        known[check.name] = check
        for one, host in _look(check, everyone):
            nodes = merged.setdefault((check.name, one.status, one.value, one.remedy or check.remedy), [])
            nodes += [node for node in (one.nodes or ((host,) if host else ())) if node not in nodes]
    findings = [
        Finding(name, status, value, known[name].rule, remedy, tuple(nodes))
        for (name, status, value, remedy), nodes in merged.items()
    ]
    return sorted(findings, key=lambda one: _ORDER.index(one.status))


def worst(findings: Iterable[Finding]) -> Status:
    """The status of the whole."""
    return min((one.status for one in findings), key=_ORDER.index, default="ok")


def unfit_nodes(checks: Iterable[Check], findings: Sequence[Finding], nodes: Sequence[str]) -> list[str]:
    """The nodes without which the job could run: none where something failed that would fail on other nodes too."""
    of_node = {check.name for check in checks if check.of_node}
    failed = [one for one in findings if one.status == "fail"]
    everywhere = (one for one in failed if len(nodes) > 1 and set(one.nodes) >= set(nodes))
    if any(one.check not in of_node or not one.nodes for one in failed) or any(everywhere):
        return []
    return sorted({node for one in failed for node in one.nodes})


def _look(check: Check, everyone: Sequence[Facts]) -> Iterator[tuple[Found, str]]:
    if check.job is not None:
        for one in check.job(everyone):
            yield one, ""
    seen: set[str] = set()
    for facts in everyone:
        if check.rank is not None:
            for one in check.rank(facts):
                yield one, facts.host
        if check.node is not None and facts.host not in seen:
            seen.add(facts.host)
            for one in check.node(facts):
                yield one, facts.host
