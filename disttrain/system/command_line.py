"""What `ps`, `top` and py-spy show of a process that was not started with the command that it runs.

The kernel is told where in this process's memory the two texts are (`PR_SET_MM_MAP` of prctl(2), for which a process
needs no privilege). setproctitle, which writes over the old ones, has no room for longer ones, loses the limits between
words, and spoils /proc/PID/environ.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_MM, _PR_SET_MM_MAP = 35, 14  # linux/prctl.h
_PLACES = ("start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack")
_TEXTS = ("arg_start", "arg_end", "env_start", "env_end")

_shown: list[ctypes.Array[ctypes.c_char]] = []  # the kernel reads them for as long as the process lives


class _MemoryMap(ctypes.Structure):
    """`struct prctl_mm_map` of linux/prctl.h."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in (*_PLACES, *_TEXTS)),
        ("auxv", ctypes.c_void_p),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    ]


def show_command(command: Sequence[str], environ: Mapping[str, str]) -> None:
    """Let /proc/PID/cmdline and /proc/PID/environ of this process show these. Where the kernel cannot, both stay as
    they are: nothing depends on them but what people see."""
    if sys.platform != "linux":
        return
    texts = [_joined(command), _joined([f"{name}={value}" for name, value in environ.items()])]
    with contextlib.suppress(OSError, AttributeError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # from the third one on
        code, data, stack = fields[23:25], fields[42:44], fields[25]
        library = ctypes.CDLL(None)
        library.sbrk.restype = ctypes.c_void_p
        places = [*map(int, code), *map(int, data), int(fields[44]), library.sbrk(0), int(stack)]
        ends = [end for text in texts for end in (ctypes.addressof(text), ctypes.addressof(text) + len(text))]
        new = _MemoryMap(*places, *ends, None, 0, 0xFFFFFFFF)
        if library.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(new), ctypes.c_ulong(ctypes.sizeof(new)), 0) == 0:
            _shown.extend(texts)


def _joined(words: Sequence[str]) -> ctypes.Array[ctypes.c_char]:
    joined = b"".join(os.fsencode(word) + b"\0" for word in words)
    return (ctypes.c_char * len(joined)).from_buffer_copy(joined)
