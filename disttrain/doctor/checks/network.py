"""Whether all ranks find each other, by which way, and how fast that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from disttrain.doctor.checks.units import bandwidth, several, size, speed
from disttrain.doctor.facts.model import Facts
from disttrain.doctor.finding import Check, Found, Status

_GLOO, _NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
_BRIDGES = ("docker", "br-", "virbr", "cni", "flannel", "veth", "podman", "lxc")
_SLOW = 100e6  # bytes per second: less than gigabit Ethernet has
_LOOKUP_S = 2.0
_SKEW_WARN_S, _SKEW_FAIL_S = 1.0, 60.0


def named_interfaces(variable: str, value: str, there: Sequence[str]) -> list[str]:
    """Which of the interfaces a variable names; NCCL takes prefixes, with `=` whole names, with `^` all others."""
    if variable == _GLOO:
        return [one for one in value.split(",") if one in there]
    exclude, exact = value.startswith("^"), value.startswith(("=", "^="))
    names = value.lstrip("^").lstrip("=").split(",")
    # An entry may carry a port: eth0:5000.
    names = [one.partition(":")[0] for one in names if one]
    chosen = [one for one in there if any(one == name if exact else one.startswith(name) for name in names)]
    return [one for one in there if one not in chosen] if exclude else chosen


def _interface(facts: Facts) -> Iterator[Found]:
    there, several = facts.network.interfaces, not facts.on_one_machine
    for variable in (_GLOO, _NCCL):
        value = facts.environ.get(variable)
        if not value:
            continue
        chosen = named_interfaces(variable, value, list(there))
        up = [name for name in chosen if there[name]]
        shown = f"{variable}={value}"
        if not chosen:
            yield Found("fail", f"{shown}, but the interfaces here are {', '.join(sorted(there))}")
        elif not up:
            yield Found("fail", f"{shown}, and {', '.join(chosen)} is down")
        elif several and all(name == "lo" for name in up):
            yield Found("fail", f"{shown}: no other node is reached by the loopback device")
        elif several and all(name.startswith(_BRIDGES) for name in up):
            yield Found("warn", f"{shown}: a container's bridge on this host")
        else:
            yield Found("ok", shown)


def _route(facts: Facts) -> Iterator[Found]:
    towards = facts.network.towards
    if facts.on_one_machine or towards is None:
        return
    if not towards:
        yield Found("fail", f"no way to {facts.master_addr}: its name is not known here, or there is no route")
    elif towards == "lo" and facts.job.met:
        yield Found("ok", f"{facts.master_addr} is this host")
    elif towards.startswith(_BRIDGES):
        yield Found("warn", f"packets to {facts.master_addr} leave by {towards}, a container's bridge")
    else:
        yield Found("ok", f"to {facts.master_addr} by {towards}")


def _own_name(facts: Facts) -> Iterator[Found]:
    if not facts.on_one_machine:
        error = facts.network.host_name_error
        yield Found("warn" if error else "ok", error or f"{facts.host} has an address")


def _lookups(facts: Facts) -> Iterator[Found]:
    took_s = facts.network.lookup_s
    if took_s is not None:
        slow = took_s > _LOOKUP_S
        yield Found("warn" if slow else "ok", f"{took_s:.1f} s for two names" if slow else "answered at once")


def _port(facts: Facts) -> Iterator[Found]:
    if facts.rank == 0 and facts.world_size > 1 and facts.network.port_error is not None:
        yield Found("fail", f"MASTER_PORT={facts.master_port}: {facts.network.port_error}")


def _peers(everyone: Sequence[Facts]) -> Iterator[Found]:
    job, count = everyone[0].job, everyone[0].world_size
    if not job.met:
        return
    if job.meeting_error:
        yield Found("fail", job.meeting_error, (everyone[0].host,))
    place = f"{everyone[0].master_addr} within {job.waited_s:g} s"
    if job.missing and len(everyone) == 1 and len(set(job.missing_hosts.values())) > 1:  # rank 0's own node, rather
        yield Found("fail", f"no rank reached rank 0 at {place}", (everyone[0].host,))
        return
    for rank in job.missing:
        host = job.missing_hosts.get(rank)
        where = f" on {host}" if host else ""
        yield Found("fail", f"rank {rank}{where} did not reach rank 0 at {place}", (host,) if host else ())
    for rank, why in job.lost.items():
        hosts = tuple(one.host for one in everyone if one.rank == rank)
        yield Found("fail", f"rank {rank} was there and does not answer any more: {why}", hosts)
    if not job.missing and not job.lost and not job.meeting_error:
        yield Found("ok", f"all {several(count, 'rank')} reach rank 0 at {everyone[0].master_addr}")


def _numbers(everyone: Sequence[Facts]) -> Iterator[Found]:
    for rank, hosts in everyone[0].job.twice.items():
        yield Found("fail", f"{len(hosts)} processes are rank {rank}: on {', '.join(hosts)}")
    sizes = {one.world_size for one in everyone}
    if len(sizes) > 1:
        yield Found("fail", f"world_size is {' and '.join(map(str, sorted(sizes)))} on different ranks")
    if everyone[0].job.met and len(sizes) == 1 and not everyone[0].job.twice:
        yield Found("ok", f"ranks 0 to {everyone[0].world_size - 1}, each once")


def _clocks(everyone: Sequence[Facts]) -> Iterator[Found]:
    offsets = {one.host: one.clock_offset_s for one in everyone if one.clock_offset_s is not None}
    for host, offset in offsets.items():
        status: Status = "fail" if abs(offset) > _SKEW_FAIL_S else "warn" if abs(offset) > _SKEW_WARN_S else "ok"
        if status != "ok":
            side = "ahead of" if offset > 0 else "behind"
            yield Found(status, f"{abs(offset):.1f} s {side} rank 0's clock", (host,))
    if offsets and all(abs(one) <= _SKEW_WARN_S for one in offsets.values()):
        yield Found("ok", f"the clocks of {len(offsets) + 1} nodes agree")


def _allreduce(everyone: Sequence[Facts]) -> Iterator[Found]:
    job, count = everyone[0].job, everyone[0].world_size
    if job.allreduce_error is not None:
        yield Found("fail", job.allreduce_error)
    elif job.allreduce_s:
        largest = max(job.allreduce_s)
        rate = bandwidth(largest, job.allreduce_s[largest], count)
        shown = ", ".join(f"{size(one)} in {seconds * 1000:.3g} ms" for one, seconds in sorted(job.allreduce_s.items()))
        slow = rate < _SLOW and not everyone[0].on_one_machine
        yield Found("warn" if slow else "ok", f"{job.backend}, {several(count, 'rank')}: {shown}: {speed(rate)}")
    elif job.not_tried:
        yield Found("warn", f"not tried: {job.not_tried}", (), "See the findings above first.")


CHECKS = [
    Check(
        "interface",
        "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name an interface that is here, up, and leads to the other nodes.",
        "Unset them: ranks take the interface that routes to rank 0's host. Or name one that `ip link` shows on "
        "every node.",
        node=_interface,
        of_node=False,
    ),
    Check(
        "route",
        "There is a route to rank 0's host, by no container's bridge.",
        "Let MASTER_ADDR be a name or address that every node knows; look at /etc/hosts, the name server, ip route.",
        node=_route,
    ),
    Check(
        "host-name",
        "This host's own name has an address: libraries without an interface of their own look it up.",
        "Add the name to /etc/hosts, or to the name server.",
        node=_own_name,
    ),
    Check(
        "name-lookups",
        "The name server answers within 2 s: each connection between ranks asks it.",
        "Correct /etc/resolv.conf, or have the nodes' names in /etc/hosts.",
        node=_lookups,
    ),
    Check(
        "master-port",
        "MASTER_PORT is free on rank 0's host.",
        "Export another MASTER_PORT on every rank, or end the process that holds it (ss -ltnp).",
        node=_port,
        of_node=False,
    ),
    Check(
        "peers",
        "Every rank reaches rank 0 by name and TCP.",
        "Look whether the host is up, knows rank 0's host by that name (getent hosts), and whether a firewall is"
        " between them; the rank's own message says what it sees.",
        job=_peers,
    ),
    Check(
        "ranks",
        "Every rank from 0 to world_size - 1 is there once.",
        "Start each rank once, all with one WORLD_SIZE; leave the variables to the launcher.",
        job=_numbers,
        of_node=False,
    ),
    Check(
        "clocks",
        "The nodes' clocks are within a second of each other.",
        "Let chrony or ntpd run on every node: logs and checkpoints are ordered by their times, and credentials "
        "expire.",
        job=_clocks,
    ),
    Check(
        "allreduce",
        "An allreduce over all ranks gives the right sum, at 100 MB/s or more between nodes.",
        "Look which interface it took (NCCL_DEBUG=INFO), and at firewalls: gloo and NCCL open ports of their own"
        " between all ranks.",
        job=_allreduce,
        in_job=False,
        of_node=False,
    ),
]
