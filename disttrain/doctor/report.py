"""Findings for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from disttrain.doctor.finding import Finding, worst

_MOST_NODES = 4


def render(findings: Sequence[Finding], with_ok: bool = True) -> str:
    """Lines for a terminal: what failed first, each with its rule and its remedy."""
    width = max((len(one.check) for one in findings), default=0)
    lines = []
    for one in findings:
        if one.status == "ok" and not with_ok:
            continue
        where = f"  [{_names(one.nodes)}]" if one.nodes else ""
        lines.append(f"{one.status:<4}  {one.check:<{width}}  {one.value}{where}")
        if one.status != "ok":
            lines += [f"      {'':<{width}}  rule: {one.rule}", f"      {'':<{width}}  do:   {one.remedy}"]
    return "\n".join([*lines, _summary(findings), ""])


def as_json(findings: Sequence[Finding], nodes: Sequence[str], unfit: Sequence[str], world_size: int) -> dict[str, Any]:
    """One object: `status`, `world_size`, `nodes`, `unfit_nodes`, `findings`."""
    return {
        "status": worst(findings),
        "world_size": world_size,
        "nodes": list(nodes),
        "unfit_nodes": list(unfit),
        "findings": [asdict(one) for one in findings],
    }


def message(findings: Sequence[Finding], nodes: Sequence[str]) -> str:
    """Why a job does not start: the nodes that failed, then each failure."""
    failed = [one for one in findings if one.status == "fail"]
    unfit = [node for node in nodes if any(node in one.nodes for one in failed)]
    if len(unfit) == 1 or 1 < len(unfit) < len(nodes):
        head = f"{_names(unfit)} {'is' if len(unfit) == 1 else 'are'} not fit to train"
    else:
        head = "the job is not fit to train"
    return "\n".join([f"{head}:", *(f"  {_sentence(one, len(nodes))}" for one in failed)])


def warning(one: Finding, node_count: int) -> str:
    """A finding that does not stop a job, in one line."""
    return _sentence(one, node_count)


def _sentence(one: Finding, node_count: int) -> str:
    where = f"{_names(one.nodes)}: " if one.nodes and node_count > 1 else ""
    return f"{where}{one.value}. {one.rule} {one.remedy}"


def _names(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - _MOST_NODES} more" if len(nodes) > _MOST_NODES else ""
    return ", ".join(nodes[:_MOST_NODES]) + more


def _summary(findings: Sequence[Finding]) -> str:
    count = Counter(one.status for one in findings)
    return f"{count['ok']} ok, {count['warn']} warn, {count['fail']} fail"
