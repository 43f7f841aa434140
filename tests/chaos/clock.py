"""A wall clock that jumps for one training alone."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path


def why_not() -> str | None:
    """Why there can be none here."""
    return None if shutil.which("cc") else "no C compiler: the library that moves a program's clock cannot be built"


class Clock:
    """The machine's clock, moved by a number of seconds that may change at any time. Its files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._library, self._offset = folder / "clock.so", folder / "clock_offset_s"
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"], check=True)
        self._offset.write_bytes(struct.pack("=q", 0))

    def variables(self) -> dict[str, str]:
        """What a program needs in its environment to go by it."""
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._offset)}

    def jump(self, offset_s: float) -> None:
        """From now on it is so far from the machine's, in whole seconds."""
        with self._offset.open("r+b") as file:  # in place: programs have it mapped
            file.write(struct.pack("=q", int(offset_s)))
