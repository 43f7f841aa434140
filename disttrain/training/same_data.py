"""A run goes on with the data that it began with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from disttrain.data.identity import identity_differences
from disttrain.errors import ConfigError
from disttrain.log import log
from disttrain.run_dir import MANIFEST


def check_same_data(run_dir: Path, identity: dict[str, Any], accept_changes: bool) -> None:
    """Raise ConfigError where the run in the folder began with other data, or warn with `accept_changes`."""
    then = _recorded(run_dir)
    differences = "".join(f"\n  {one}" for one in identity_differences(then, identity))
    if not differences:
        return
    if accept_changes:
        log.warning("the run in %s goes on with other data (there -> now):%s", run_dir, differences)
        return
    raise ConfigError(
        f"the run directory {run_dir} belongs to a run on other data (there -> now):{differences}\n"
        "Bring that data back, use another --run-dir, or --resume never to start anew there (what it holds is moved "
        "aside), or --accept-changed-config to go on from its checkpoint all the same."
    )


def _recorded(run_dir: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
        return dict(manifest.get("data") or {"fingerprint": manifest["data_fingerprint"]})
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
