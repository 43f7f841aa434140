"""Tensors copied to host memory in the layout of a safetensors file, and from there to the disk.

The file is written here and not by the safetensors library (which reads it) so that each byte is touched once: hashed
and written in the same pass, straight from the copy, and without Python's lock, which the training thread needs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from disttrain.checkpoint.folder import FileRecord
from disttrain.errors import ConfigError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PIECE = 4 << 20  # bytes: hashed while the processor's cache still has what was written


class HostBuffer:
    """Holds one copy at a time, in memory that is allocated at the first one and used again by the next."""

    def __init__(self) -> None:
        self._layout: list[tuple[str, torch.dtype, torch.Size]] = []
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._views: list[torch.Tensor] = []
        self._header = b""
        self._used = 0

    @property
    def address(self) -> int:
        """Where the copy lies in memory."""
        return self._buffer.data_ptr()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._layout

    @torch.no_grad()
    def take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy the tensors; they may change as soon as this returns.

        Raises ConfigError for a type of number that safetensors files do not have.
        """
        # The largest items first, so that each tensor lies at a multiple of its item size.
        ordered = sorted(tensors.items(), key=lambda one: (-one[1].element_size(), one[0]))
        layout = [(name, tensor.dtype, tensor.shape) for name, tensor in ordered]
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        if layout != self._layout or on_gpu != self._buffer.is_pinned():
            self._lay_out(layout, on_gpu)
        if self._views:
            torch._foreach_copy_(self._views, [tensor for _, tensor in ordered], non_blocking=True)
        if on_gpu:
            torch.cuda.current_stream().synchronize()

    def _lay_out(self, layout: list[tuple[str, torch.dtype, torch.Size]], pinned: bool) -> None:
        header, ends, end = {}, [], 0
        for name, dtype, shape in layout:
            if dtype not in DTYPES:
                raise ConfigError(f"{name} has dtype {dtype}, which no checkpoint can hold. Keep it out of the state.")
            begin, end = end, end + shape.numel() * dtype.itemsize
            header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
            ends.append((begin, end))
        if end > self._buffer.numel() or pinned != self._buffer.is_pinned():
            self._views, self._buffer = [], torch.empty(0, dtype=torch.uint8)  # the old memory goes first
            self._buffer = torch.empty(end, dtype=torch.uint8, pin_memory=pinned and end > 0)
        self._views = [
            self._buffer[begin:end].view(dtype).view(shape)
            for (begin, end), (_, dtype, shape) in zip(ends, layout, strict=True)
        ]
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header, self._used, self._layout = len(text).to_bytes(8, "little") + text, end, layout

    def write(self, path: Path) -> FileRecord:
        """Write the copy as a safetensors file and flush it to the disk. Raises OSError."""
        digest = hashlib.sha256(self._header)
        content = self._buffer.numpy().data[: self._used]
        with path.open("wb") as file:
            file.write(self._header)
            for begin in range(0, self._used, _PIECE):
                piece = content[begin : begin + _PIECE]
                file.write(piece)
                digest.update(piece)
            file.flush()
            os.fsync(file.fileno())
        return FileRecord(len(self._header) + self._used, digest.hexdigest())
