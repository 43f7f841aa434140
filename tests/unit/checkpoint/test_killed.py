from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

KILLS = 20


def test_a_kill_at_any_instant_leaves_a_whole_checkpoint_not_older_than_latest(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed.py")
    command = [sys.executable, str(script), str(tmp_path / "checkpoints"), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == KILLS
    before = 0
    for kill in kills:
        assert kill["killed"]
        if kill["found"] is None:
            assert kill["latest"] is None
            continue
        step = kill["step"]
        assert kill["found"] == f"step_{step:08d}"
        assert kill["values"] == [step]
        assert kill["files"] == ["w0", "w1"]
        assert step >= max(before, int((kill["latest"] or "step_0")[5:]))
        before = step
    assert "is refused" not in done.stderr
    assert before >= KILLS // 2, "too few saves for the kills to fall into"
    assert any(kill["half_written"] for kill in kills), "no kill fell into a save"
