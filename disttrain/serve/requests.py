"""The body of a request -> named files in memory. Nothing is written to a disk."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

_LONGEST_NAME = 200
_DISCARD_S = 1.0


class Refused(Exception):
    """A request that is answered with a status and one sentence."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}


@dataclass(frozen=True)
class NamedFile:
    """A file that a client sends."""

    name: str
    data: bytes


class EncodedImage(BaseModel):
    """One image of a JSON request."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field("", max_length=_LONGEST_NAME, description="comes back with its result")
    data: str = Field(description="the file's bytes in base64", json_schema_extra={"format": "byte"})


class EncodedImages(BaseModel):
    """A JSON request."""

    model_config = ConfigDict(extra="forbid")
    images: list[EncodedImage] = Field(min_length=1)


class ByteBudget:
    """The bytes of all requests that are held in memory. Used by the event loop's thread alone."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    def take(self, count: int) -> None:
        """Raises Refused with 503."""
        if self.held + count > self.most:
            raise busy("The server holds as many bytes of requests as it may.")
        self.held += count


def busy(detail: str) -> Refused:
    """The refusal of a request that may be tried again."""
    return Refused(503, detail, {"Retry-After": "1"})


async def read_body(stream: AsyncIterator[bytes], declared: str | None, most: int, budget: ByteBudget) -> bytes:
    """The whole body. The caller gives its length back to the budget. Raises Refused (413, 503)."""
    taken = 0
    parts: list[bytes] = []
    try:
        if declared is not None and declared.isascii() and declared.isdigit() and int(declared) > most:
            raise _too_large(most)
        async for part in stream:
            if taken + len(part) > most:
                raise _too_large(most)
            budget.take(len(part))
            taken += len(part)
            parts.append(part)
    except Refused:
        budget.held -= taken
        await _discard(stream)
        raise
    except BaseException:
        budget.held -= taken
        raise
    return b"".join(parts)


def _too_large(most: int) -> Refused:
    return Refused(413, f"The request is larger than {most:,} bytes: send fewer or smaller images.")


async def _discard(stream: AsyncIterator[bytes]) -> None:
    """For a moment take what a client goes on sending: one that is cut off while it sends does not read the answer."""

    async def take() -> None:
        async for _ in stream:
            pass

    try:
        await asyncio.wait_for(take(), _DISCARD_S)
    except Exception:  # whatever it is: the refusal is what counts
        return


def parse_files(body: bytes, content_type: str, most: int) -> list[NamedFile]:
    """The files of a multipart or JSON body, one at least. Raises Refused (413, 415, 422)."""
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data" and options.get(b"boundary"):
        files = list(_Multipart(options[b"boundary"], most).parse(body))
    elif kind == b"application/json":
        files = list(_json_files(body, most))
    else:
        raise Refused(415, "Send images as multipart/form-data, or as application/json with base64.")
    if not files:
        raise Refused(422, "The request has no image: send each as a file of the form.")
    return files


def _too_many(most: int) -> Refused:
    return Refused(413, f"The request has more than {most} images: send them in several requests.")


def _json_files(body: bytes, most: int) -> Iterator[NamedFile]:
    try:
        request = EncodedImages.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Refused(422, f"The JSON of the request is wrong: {where}: {first['msg']}.") from None
    if len(request.images) > most:
        raise _too_many(most)
    for index, image in enumerate(request.images):
        try:
            yield NamedFile(image.name, base64.b64decode(image.data, validate=True))
        except (binascii.Error, ValueError):
            raise Refused(422, f"images.{index}.data is not base64 (RFC 4648, with padding).") from None


class _Multipart:
    """The parts of one form; each has to be a file."""

    def __init__(self, boundary: bytes, most: int) -> None:
        self._most = most
        self._files: list[NamedFile] = []
        self._data: list[bytes] = []
        self._header: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._ended = False
        self._parser = MultipartParser(boundary, self._callbacks())

    def parse(self, body: bytes) -> list[NamedFile]:
        try:
            self._parser.write(body)
            self._parser.finalize()
        except FormParserError:
            raise Refused(422, "The multipart form of the request is damaged.") from None
        if not self._ended:
            raise Refused(422, "The multipart form of the request is cut short.")
        return self._files

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": self._end,
            "on_header_field": self._add_field,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self._files) == self._most:
            raise _too_many(self._most)
        self._data, self._header = [], {}

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._header[self._field.lower()] = self._value
        self._field = self._value = b""

    def _end(self) -> None:
        _, options = parse_options_header(self._header.get(b"content-disposition", b""))
        if b"filename" not in options:
            name = _shown(options.get(b"name", b""))
            raise Refused(422, f"The field {name!r} of the form is no file: send images alone, each with a file name.")
        self._files.append(NamedFile(_shown(options[b"filename"]), b"".join(self._data)))

    def _finish(self) -> None:
        self._ended = True


def _shown(name: bytes) -> str:
    return name.decode("utf-8", errors="replace")[:_LONGEST_NAME]
