"""What the soak sends: good requests, whose answers are known, and bad ones of every kind, each with its statuses."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BOUNDARY = "disttrain-soak-boundary"
_BAD_SHARE = 0.15


@dataclass(frozen=True)
class Sent:
    """One request, and what has to come back."""

    data: bytes
    """The whole of it, or a part after which the client goes away (no `statuses`)."""
    statuses: tuple[int, ...] = (200,)
    images: tuple[int | None, ...] = ()
    """Which image each part is; None for one that cannot be read."""


def post(path: str, kind: str, body: bytes) -> bytes:
    """The bytes of a request."""
    head = f"POST {path} HTTP/1.1\r\nHost: soak\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def form(files: Sequence[bytes], path: str = "/v1/predict") -> bytes:
    """A POST of a form with these files."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{number}.png"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for number, data in enumerate(files)
    ]
    return post(path, f"multipart/form-data; boundary={BOUNDARY}", b"".join(parts) + f"--{BOUNDARY}--\r\n".encode())


def as_json(files: Sequence[bytes]) -> bytes:
    """A POST of JSON with these files in base64."""
    images = [{"name": str(number), "data": base64.b64encode(data).decode()} for number, data in enumerate(files)]
    return post("/v1/predict", "application/json", json.dumps({"images": images}).encode())


def draw(images: Sequence[bytes], chance: random.Random) -> Sent:
    """A good request of one to four images, or, one time in seven, a bad one."""
    if chance.random() < _BAD_SHARE:
        return _bad(images, chance)
    chosen = [chance.randrange(len(images)) for _ in range(chance.randint(1, 4))]
    files = [images[index] for index in chosen]
    return Sent(form(files) if chance.random() < 0.7 else as_json(files), images=tuple(chosen))


def _bad(images: Sequence[bytes], chance: random.Random) -> Sent:
    index = chance.randrange(len(images))
    good = images[index]
    damaged = bytearray(good)
    for _ in range(9):
        damaged[chance.randrange(len(damaged) // 3)] ^= 255  # in the header and the first data: the checksum tells
    kind = chance.randrange(9)
    if kind == 0:
        return Sent(form([good[: len(good) // 2], good]), (422,), (None, index))
    if kind == 1:
        return Sent(form([bytes(damaged), good]), (422,), (None, index))
    if kind == 2:
        return Sent(form([chance.randbytes(chance.randrange(2000))]), (422,), (None,))
    if kind == 3:
        return Sent(form([good] * 300), (413,))
    if kind == 4:
        return Sent(post("/v1/predict", "application/json", b'{"images": [' + chance.randbytes(9)), (422,))
    if kind == 5:
        return Sent(post("/v1/predict", "text/plain", good), (415,))
    if kind == 6:
        return Sent(form([good], "/v1/detect?threshold=2"), (422,))
    whole = form([good])
    cut = chance.randrange(1, len(whole))
    return Sent(whole[:cut], ()) if kind == 7 else Sent(b"GET /v1/nothing HTTP/1.1\r\nHost: soak\r\n\r\n", (404,))


def faults_of(sent: Sent, status: int, body: bytes, expected: Sequence[dict[str, Any]]) -> str:
    """What is wrong with an answer; an empty string for none. `expected`: rows of `disttrain predict` by image."""
    if status not in sent.statuses:
        return f"status {status} in place of {sent.statuses}: {body[:200]!r}"
    if not sent.images:
        return ""
    predictions = json.loads(body)["predictions"]
    if len(predictions) != len(sent.images):
        return f"{len(predictions)} predictions for {len(sent.images)} images"
    for given, index in zip(predictions, sent.images, strict=True):
        if index is None:
            if "error" not in given:
                return f"{given} for an image that cannot be read"
        elif given.get("label") != expected[index]["label"]:
            return f"{given} in place of {expected[index]}"
        else:
            for name, value in given["probabilities"].items():
                if abs(value - float(expected[index][f"p_{name}"])) > 1.5e-6:  # the last decimal may round otherwise
                    return f"{given} in place of {expected[index]}"
    return ""
