"""What ranks do in the tests of `--verify-against`: train against another run's digests, some of them with a fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from disttrain.comm.rank_session import rank_session
from disttrain.config import build_config
from disttrain.errors import DisttrainError
from disttrain.launch.env import RankEnv
from disttrain.training.prepare import Request
from disttrain.training.run import run_training


def verify(env: RankEnv, run_dir: str, sections: dict[str, Any], verify_against: str, threads: dict[str, int]) -> str:
    """`run_training` with so many threads on some ranks; what ended it, or nothing."""
    if str(env.rank) in threads:
        sections["train"]["cpu_threads"] = threads[str(env.rank)]
    request = Request(build_config(sections), Path(run_dir), "never", True, verify_against=Path(verify_against))
    try:
        with rank_session(env, 30.0, quiet=True, in_library=True) as session:
            run_training(request, session)
    except DisttrainError as error:
        return f"{type(error).__name__}: {error}"
    except SystemExit as end:
        return f"exit code {end.code}"
    return ""
