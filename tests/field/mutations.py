"""What the fuzzer does to the bytes of a good file."""

from __future__ import annotations

import random
from collections.abc import Callable

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
Mutation = Callable[[random.Random, bytearray], None]


def _flip_bits(draw: random.Random, data: bytearray) -> None:
    for _ in range(draw.choice((1, 1, 2, 8, 32))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _set_number(draw: random.Random, data: bytearray) -> None:
    size = draw.choice((1, 2, 4))
    at = draw.randrange(len(data))
    number = draw.choice(_INTERESTING) & ((1 << 8 * size) - 1)
    data[at : at + size] = number.to_bytes(size, draw.choice(("big", "little")))


def _set_number_near_the_start(draw: random.Random, data: bytearray) -> None:
    head = bytearray(data[:64])
    _set_number(draw, head)
    data[:64] = head


def _cut(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data)) :]


def _remove(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data))
    del data[at : at + draw.randint(1, 40)]


def _repeat(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data))
    data[at:at] = data[at : at + draw.randint(1, 40)] * draw.choice((1, 2, 50))


def _move(draw: random.Random, data: bytearray) -> None:
    start, to = draw.randrange(len(data)), draw.randrange(len(data))
    part = data[start : start + draw.randint(1, 40)]
    data[to : to + len(part)] = part


def _insert_noise(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data))
    data[at:at] = draw.randbytes(draw.randint(1, 60))


def _swap_text(draw: random.Random, data: bytearray) -> None:
    """For JSON: another value where a number or a name stood."""
    tokens = (b"null", b"NaN", b"-1", b"1e999", b"[]", b"{}", b'"x"', b"true", b"9" * 400, b"0.5", b"[[", b'"\\ud800"')
    places = [at for at, byte in enumerate(data) if byte in b"017ab,["] or [0]
    at = draw.choice(places)
    data[at : at + 1] = draw.choice(tokens)


def _swap_yaml(draw: random.Random, data: bytearray) -> None:
    """Another value, or YAML's own signs, where a word or a number began."""
    tokens = (
        *(b"null", b"~", b".nan", b"-.inf", b"1e999", b"010", b"0x1F", b"1_0", b"12:30", b"2024-01-01", b"9" * 5000),
        *(b"[]", b"{}", b"[[", b"[" * 3000, b"'", b'"', b"|", b">-", b"? ", b"- ", b": ", b"#", b"\t", b"\r"),
        *(b"&a ", b"*a", b"<<: ", b"!!python/name:os.system ", b"!!binary ", b"!!set "),
        *(b"%YAML 9.9\n", b"---\n", b"\xef\xbb\xbf"),
    )
    places = [at for at in range(1, len(data)) if data[at - 1] in b" \n" and data[at] not in b" \n"] or [0]
    at = draw.choice(places)
    data[at : at + draw.choice((0, 1, 3))] = draw.choice(tokens)


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits, _flip_bits, _set_number, _set_number, _set_number_near_the_start, _cut, _remove, _repeat, _move,
    _insert_noise,
)  # fmt: skip


JSON_MUTATIONS: tuple[Mutation, ...] = (*MUTATIONS, _swap_text, _swap_text, _swap_text)
YAML_MUTATIONS: tuple[Mutation, ...] = (*MUTATIONS, _swap_yaml, _swap_yaml, _swap_yaml, _swap_yaml)
