"""Memory that a process keeps costs no page faults when it is allocated again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
import numpy
from disttrain.system.memory import keep_freed_memory

def page_faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        numpy.ones(40 << 20, numpy.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory() if sys.argv[1] == "keep" else False
page_faults()
print(kept, page_faults())
"""


def run(argument: str, **environ: str) -> tuple[str, int]:
    command = [sys.executable, "-c", _PROGRAM, argument]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_is_freed_is_used_again() -> None:
    kept, few = run("keep")
    given_back, many = run("leave")
    assert (kept, given_back) == ("True", "False")
    assert few < many / 10


def test_settings_of_the_user_stand() -> None:
    assert run("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
