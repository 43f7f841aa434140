"""Reading variables out of an environment, and the checks that every launcher's numbers go through."""

from __future__ import annotations

import ipaddress
import re
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from disttrain.errors import ConfigError
from disttrain.launch.env.model import RankEnv

Environ = Mapping[str, str]

_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback")


class Names(NamedTuple):
    """How a launcher calls the four numbers that every rank has."""

    rank: str
    world_size: str
    local_rank: str
    local_world_size: str


class Numbers(NamedTuple):
    """The four numbers of one rank, in the order of `Names`."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


PLAIN = Names("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SLURM = Names("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
OPENMPI = Names(*(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")))
MPICH = Names("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
HOROVOD = Names(*(f"HOROVOD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")))


def get(environ: Environ, name: str) -> str | None:
    """The value of `name`; blank counts as unset, since shells and pod specs leave blanks where they have no value."""
    return environ.get(name, "").strip() or None


def needed(environ: Environ, name: str, beside: str) -> str:
    """The value of `name`, which is always there beside the variable `beside`."""
    value = get(environ, name)
    if value is None:
        raise ConfigError(
            f"{beside}={environ.get(beside, '')} is set, but {name} is not: the launcher sets both. "
            f"Set {name} too, or unset {beside} to run without that launcher."
        )
    return value


def whole(environ: Environ, name: str, default: int | None = None) -> int:
    """The whole number in `name`. Without a default it must be there."""
    value = get(environ, name)
    if value is None and default is not None:
        return default
    if value is None or not re.fullmatch(r"[0-9]+", value):
        shown = "is not set" if value is None else f"is {value!r}"
        raise ConfigError(f"{name} {shown}: it must be a whole number from 0. Correct it, or start under a launcher.")
    return int(value)


def port(environ: Environ, name: str, default: int | None = None) -> int:
    """The TCP port in `name`, else the default; 0 only ever as a default."""
    value = get(environ, name)
    if value is None and default is not None:
        return default
    if value is None:
        raise ConfigError(f"{name} is not set: the ranks meet at a port of rank 0's host. Export {name}=29500, say.")
    if not re.fullmatch(r"[0-9]+", value) or not 1 <= int(value) <= 65535:
        raise ConfigError(f"{name}={value!r}: a TCP port is a number from 1 to 65535. Export another one, or unset it.")
    return int(value)


def hashed_port(job: str) -> int:
    """A port below the ephemeral range that all ranks of a job derive alike from what they know of it."""
    return 15000 + zlib.crc32(job.encode()) % 10000


def bare_address(text: str) -> str:
    """A host as sockets take it: an IPv6 address without the brackets that it has before a port."""
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def host_of(environ: Environ, name: str = "MASTER_ADDR") -> str | None:
    """The host name or address in `name`. Raises ConfigError where it has a port, or is no address."""
    value = get(environ, name)
    if value is None:
        return None
    host = bare_address(value)
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", host):
            raise ConfigError(
                f"{name}={value!r}: it must be a host name, an IPv4 or an IPv6 address, alone. A port goes into "
                "MASTER_PORT."
            ) from None
    return host


def is_loopback(address: str) -> bool:
    """Whether this address means "this machine" on every machine."""
    host = bare_address(address).lower()
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host in _LOOPBACK_NAMES
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def numbers(environ: Environ, names: Names) -> Numbers:
    """The four numbers as the launcher has set them."""
    needed(environ, names.world_size, beside=names.rank)
    needed(environ, names.rank, beside=names.world_size)
    return Numbers(*(whole(environ, name) for name in names))


def check_numbers(names: Names, found: Numbers) -> None:
    """Refuse numbers that no launcher gives."""
    rank, size, local_rank, local_size = found
    way_out = "Correct the variables, or leave them to the launcher."
    if size < 1 or local_size < 1:
        raise ConfigError(
            f"{names.world_size}={size}, {names.local_world_size}={local_size}: at least one rank runs. {way_out}"
        )
    if rank >= size:
        raise ConfigError(f"{names.rank}={rank}, {names.world_size}={size}: ranks go from 0 to {size - 1}. {way_out}")
    if local_rank >= local_size:
        raise ConfigError(
            f"{names.local_rank}={local_rank}, {names.local_world_size}={local_size}: "
            f"ranks on a node count from 0 to {local_size - 1}. {way_out}"
        )
    if local_size > size:
        raise ConfigError(
            f"{names.local_world_size}={local_size}, {names.world_size}={size}: a node is only a part. {way_out}"
        )


def check_reachable(names: Names, found: Numbers, address: str) -> None:
    """Refuse localhost as the meeting place of ranks on several nodes: each node would wait for its own rank 0."""
    if is_loopback(address) and found.local_world_size < found.world_size:
        raise ConfigError(
            f"MASTER_ADDR={address}, but {names.local_world_size}={found.local_world_size} of "
            f"{names.world_size}={found.world_size} ranks are on this node: other nodes cannot reach rank 0 "
            "there. Export MASTER_ADDR=<host of rank 0>."
        )


def check_agreement(environ: Environ, env: RankEnv, names: Names) -> None:
    """Refuse another launcher's variables that say something else: they may be the ones the user relies on."""
    mine = (env.rank, env.world_size, env.local_rank, env.local_world_size)
    for name, value in zip(names, mine, strict=True):
        if get(environ, name) is not None and whole(environ, name) != value:
            raise ConfigError(
                f"{name}={environ[name]}, but the {env.launcher} variables say {value} "
                f"(rank {env.rank} of {env.world_size}): two launchers disagree. Unset {name}, or use one launcher."
            )
