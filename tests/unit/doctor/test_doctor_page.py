"""docs/doctor.md has every check, as the code says it."""

from __future__ import annotations

import re
from pathlib import Path

from disttrain.doctor.checks import CHECKS

PAGE = (Path(__file__).resolve().parents[3] / "docs/doctor.md").read_text(encoding="utf-8")


def test_the_table_has_every_check_with_its_rule_and_remedy() -> None:
    rows = re.findall(r"^\| `[a-z-]+` \| .* \|$", PAGE, flags=re.MULTILINE)
    assert rows == [f"| `{one.name}` | {one.rule} | {one.remedy} | {'yes' if one.in_job else 'no'} |" for one in CHECKS]
