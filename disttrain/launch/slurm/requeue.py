"""Whether a Slurm job that has ended goes back into the queue.

`RUN_DIR/slurm.json` has which job was requeued last, the newest checkpoint at that time, and how often in a row there
was no newer one.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from disttrain.errors import PeerLostError, Preempted
from disttrain.files import write_json
from disttrain.launch.exit_codes import job_exit_code
from disttrain.run_dir import CHECKPOINTS, RESULT, load_result

RECORD = "slurm.json"

_RETRYABLE = (Preempted.exit_code, PeerLostError.exit_code)


@dataclass(frozen=True)
class Requeues:
    """What is known of a job's requeues so far."""

    job: str
    step: int | None
    """Of the newest checkpoint, when it was requeued last."""
    without_progress: int
    """How many requeues in a row found no newer checkpoint than the one before."""


@dataclass(frozen=True)
class Verdict:
    """The exit code of the job, whether it is requeued, and the line for the user that says why."""

    code: int
    requeue: bool
    line: str = ""


def training_code(code: int) -> int:
    """disttrain's exit code for that of a shell's program: 137 (killed) is a lost rank, 138 (SIGUSR1) a stop."""
    if code in _RETRYABLE or code <= 128:
        return code
    return job_exit_code(128 - code)


def result_stamp(run_dir: Path) -> str:
    """Something that is another text once a training has finished in the folder; empty as long as none has."""
    if load_result(run_dir) is None:
        return ""
    status = (run_dir / RESULT).stat()
    return f"{status.st_ino}.{status.st_mtime_ns}"


def judge(code: int, state: str, run_dir: Path, job: str, most: int, result: str = "") -> Verdict:
    """What becomes of a job whose ranks have ended with `code`; `RUN_DIR/slurm.json` is written where it is requeued.

    Args:
        code: of srun or mpirun: that of the ranks, or 128 plus the signal that killed one.
        state: what `scontrol show job` says of the job.
        most: requeues in a row without a new checkpoint.
        result: the stamp of `result_stamp` from before the ranks were started.
    """
    code = training_code(code)
    if code and result_stamp(run_dir) not in ("", result):
        return Verdict(0, False)  # with a node lost in the last moment, say
    if code not in _RETRYABLE:
        return Verdict(code, False, _final(code))
    if (ending := _is_ending(state)) is not None:
        return Verdict(code, False, f"{ending}: not requeued. Submit it again to go on.")
    step, before = newest_step(run_dir), _read(run_dir)
    stands = before is not None and before.job == job and (step or 0) <= (before.step or 0)
    without = before.without_progress + 1 if before is not None and stands else 0
    if without >= most:
        where = "no checkpoint" if step is None else f"no newer checkpoint than that of step {step}"
        return Verdict(
            code,
            False,
            f"error: exit code {code}, and {where} since {without} requeues (DISTTRAIN_MAX_REQUEUES={most}): not "
            "requeued any more. Look at the reports above and at the ranks' logs, then submit it again.",
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(run_dir / RECORD, asdict(Requeues(job, step, without)))
    except OSError as error:
        return Verdict(code, False, f"error: {run_dir} cannot be written ({error.strerror}): not requeued.")
    why = "asked to stop" if code == Preempted.exit_code else "a rank or a node was lost"
    place = "from the beginning" if step is None else f"from step {step}"
    return Verdict(code, True, f"{why} (exit code {code}): job {job} is requeued, and goes on {place}")


def newest_step(run_dir: Path) -> int | None:
    """The step of the newest checkpoint of a run, None where there is none."""
    steps = (re.fullmatch(r"step_(\d{8,})", path.name) for path in (run_dir / CHECKPOINTS).glob("step_*"))
    return max((int(match[1]) for match in steps if match), default=None)


def _final(code: int) -> str:
    if code in (0, 130):
        return ""
    if code == 1:
        return "exit code 1, which nobody has explained: not requeued"
    return f"exit code {code}: not requeued, since the same job would end so again"


def _is_ending(state: str) -> str | None:
    """What Slurm itself has made of a job that does not run any more, if not the end of its time."""
    fields = dict(re.findall(r"\b(JobId|JobState|Reason)=(\S+)", state))
    if fields.get("JobState", "RUNNING") == "RUNNING" or fields.get("Reason") == "TimeLimit":
        return None
    return f"job {fields.get('JobId', '')} is cancelled, or Slurm requeues it by itself"


def _read(run_dir: Path) -> Requeues | None:
    try:
        return Requeues(**json.loads((run_dir / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
