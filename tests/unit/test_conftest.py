"""The guards of conftest.py: each of them fails a test that leaves something behind."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

LEAKS = {
    "variable": ("import os\n    os.environ['LEFT_BEHIND'] = '1'", "environment variables changed: LEFT_BEHIND"),
    "process": ("import subprocess\n    subprocess.Popen(['sleep', '20'])", "left processes running: .*sleep 20"),
    "file": ("open('left_behind', 'w').close()", "left files: .*left_behind"),
    "folder": ("import os\n    os.chdir('/')", "left / as the working directory"),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_test_that_leaves_something_behind_fails_and_the_next_one_does_not(kind: str, tmp_path: Path) -> None:
    code, message = LEAKS[kind]
    tests = tmp_path / "tests"
    tests.mkdir()
    short = CONFTEST.read_text().replace("_GRACE_S = 5.0", "_GRACE_S = 0.1")
    (tests / "conftest.py").write_text(short)
    shutil.copy(CONFTEST.with_name("tiers.py"), tests)
    (tests / "test_it.py").write_text(f"def test_leaks():\n    {code}\n\ndef test_after():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    subprocess.run(["/bin/sh", "-c", f"kill {_sleeping(done.stdout)}"], check=False, capture_output=True)
    assert re.search(message, done.stdout), done.stdout
    assert "2 passed, 1 error" in done.stdout, done.stdout


def _sleeping(output: str) -> str:
    return " ".join(re.findall(r"\{(\d+): 'sleep 20'", output))
