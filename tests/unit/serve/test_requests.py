"""Bodies of requests: what is read, and what is refused with which status."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest

from disttrain.serve.requests import ByteBudget, NamedFile, Refused, parse_files, read_body

FORM = 'multipart/form-data; boundary="b"'


def part(data: bytes, name: str = "images", filename: str | None = "a.png") -> bytes:
    shown = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'.encode() + data + b"\r\n"


def encoded(*images: dict[str, str]) -> bytes:
    return json.dumps({"images": list(images)}).encode()


def refusal(body: bytes, content_type: str, most: int = 3) -> tuple[int, str]:
    with pytest.raises(Refused) as error:
        parse_files(body, content_type, most)
    return error.value.status, error.value.detail


def test_the_files_of_a_form_come_in_order_with_their_bytes() -> None:
    tricky = bytes(range(256)) + b"\r\n--c\r\n--"
    body = part(tricky, filename="ä.png") + part(b"", "other", "b.png") + b"--b--\r\n"
    assert parse_files(body, FORM, 2) == [NamedFile("ä.png", tricky), NamedFile("b.png", b"")]


def test_images_of_a_json_body_are_base64() -> None:
    body = encoded({"name": "a", "data": base64.b64encode(b"\x00\xff").decode()}, {"data": ""})
    assert parse_files(body, "application/json; charset=utf-8", 2) == [NamedFile("a", b"\x00\xff"), NamedFile("", b"")]


def test_names_are_bounded() -> None:
    (file,) = parse_files(part(b"x", filename="n" * 900) + b"--b--\r\n", FORM, 1)
    assert len(file.name) == 200


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (part(b"x"), FORM, 422, "cut short"),
        (part(b"x")[:20], FORM, 422, "cut short"),
        (b"", FORM, 422, "cut short"),
        (b"nothing of a form", FORM, 422, "damaged"),
        (b"--b--\r\n", FORM, 422, "has no image"),
        (part(b"0.5", "threshold", None) + b"--b--\r\n", FORM, 422, "'threshold' of the form is no file"),
        (part(b"x") * 4 + b"--b--\r\n", FORM, 413, "more than 3 images"),
        (b"x", "multipart/form-data", 415, "multipart/form-data, or as application/json"),
        (b"x", "image/png", 415, "base64"),
        (b"x", "", 415, "base64"),
        (b"{", "application/json", 422, "the body: Invalid JSON"),
        (b"[]", "application/json", 422, "the body"),
        (encoded(), "application/json", 422, "images: List should have at least 1 item"),
        (encoded({"name": "a"}), "application/json", 422, "images.0.data: Field required"),
        (encoded({"data": "", "url": "http://a"}), "application/json", 422, "images.0.url: Extra inputs"),
        (encoded({"data": "AA=A"}), "application/json", 422, "images.0.data is not base64"),
        (encoded({"data": "ü"}), "application/json", 422, "images.0.data is not base64"),
        (encoded(*[{"data": ""}] * 4), "application/json", 413, "more than 3 images"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(body: bytes, content_type: str, status: int, words: str) -> None:
    found, detail = refusal(body, content_type)
    assert found == status
    assert words in detail


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    for one in parts:
        yield one


def test_a_body_is_read_whole_and_counted() -> None:
    budget = ByteBudget(100)
    assert asyncio.run(read_body(stream(b"ab", b"", b"c"), "3", 3, budget)) == b"abc"
    assert budget.held == 3


@pytest.mark.parametrize(
    ("parts", "declared", "status"),
    [((b"abcd", b"e"), "5", 413), ((b"abcd", b"e"), None, 413), ((b"abcd", b"e"), "2", 413), ((b"x" * 4,), "4", 503)],
)
def test_too_many_bytes_are_refused_and_none_stay_held(
    parts: tuple[bytes, ...], declared: str | None, status: int
) -> None:
    budget = ByteBudget(10)
    budget.held = 7 if status == 503 else 0
    before = budget.held
    with pytest.raises(Refused) as error:
        asyncio.run(read_body(stream(*parts), declared, 4, budget))
    assert error.value.status == status
    assert budget.held == before
