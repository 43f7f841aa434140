"""Ray's worker of a trial: it has the trial's runs started, hands out what they report, and ends them."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune

from disttrain.errors import Preempted
from disttrain.launch.exit_codes import may_run_again
from disttrain.tune.history import FAILED, FINISHED
from disttrain.tune.ray_nodes import NodeHost, OtherNodes, TrainingOnNodes
from disttrain.tune.training import (
    Line,
    Training,
    TrainingHost,
    keep_checkpoint,
    train_command,
    vacant_run_dir,
    validation_lines,
)

VALUE, EPOCH, ENDED = "value", "epoch", "ended"
OF = "of"
"""Of a report: the first run directory of the task that it belongs to."""
INTERRUPTED = "interrupted"

_POLL_S = 0.05
_UNASKED_S = 10.0  # after a report; then the trial is taken for one that was stopped and whose worker nobody needs
_MORE_STARTS = 2  # of a training that was asked to stop by somebody else, or lost more ranks than it restarts itself
_WAY_OUT_S = 10.0
_SAVE_S = 60.0  # for a checkpoint that is being written


def kept_checkpoint(run_dir: Path, epoch: int) -> Path:
    """Where a run's checkpoint after an epoch is kept for others."""
    return run_dir / "kept" / f"epoch_{epoch:05d}"


@dataclass
class TrialTask:
    """What the driver sends: one trial, all that its worker has to know of it."""

    name: str
    run_dirs: list[str]
    """One for each seed; `config.yaml` is in them already."""
    metric: str
    epochs: int
    """Of the whole training."""
    after_epoch: int
    """What has been reported already."""
    ending: str
    """A file whose existence asks all trials to save and to leave."""
    notice_s: float
    folder: str
    """The working directory of the search."""
    begin_from: str = ""
    """A checkpoint of another trial with which it begins, until it has its own."""
    preload: list[str] = field(default_factory=list)
    threads: int = 1
    nodes: int = 1
    ranks: int = 1
    """On each node."""
    bundle: dict[str, float] = field(default_factory=dict)
    """What it has on each node, as Ray's resources."""


class TrialWorker(tune.Trainable):
    """The runs train on while Tune makes up its mind about their last report."""

    _host: TrainingHost | None = None
    _nodes: tuple[NodeHost, OtherNodes] | None = None
    _step_of_report: int | None

    def setup(self, config: dict[str, Any]) -> None:
        """See Trainable."""
        task: TrialTask = config["task"]
        with contextlib.suppress(OSError):  # on another machine there may be no such folder
            os.chdir(task.folder)
        self._trainings: list[Training | TrainingOnNodes] = []
        self._lock = threading.Lock()
        host = task.preload, task.threads, task.folder
        if task.nodes > 1:
            self._nodes = NodeHost(*host), OtherNodes(task.nodes - 1, task.bundle, *host)
        else:
            self._host = TrainingHost(*host[:2])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Another trial in this worker; Tune calls nothing at the end of the one before."""
        self._kill()
        self._task: TrialTask = new_config["task"]
        self._reported, self._starts, self._run_dirs = self._task.after_epoch, 0, list(map(Path, self._task.run_dirs))
        self._is_started, self._step_of_report = False, None
        return True

    def step(self) -> dict[str, Any]:
        """The next report, or the end."""
        self._timer(None)
        with self._lock:  # until a timer that has just gone off is done
            pass
        try:
            return self._step()
        finally:
            self._timer(_UNASKED_S)

    def _step(self) -> dict[str, Any]:
        task = self._task
        while True:
            if os.path.exists(task.ending):  # noqa: PTH110
                return self._interrupt()
            if not self._is_started:
                self._start()
            codes = [one.poll() for one in self._trainings]  # before the look at the files: what they then hold is all
            if failed := [at for at, code in enumerate(codes) if code]:
                if (end := self._after_failure(failed[0], codes[failed[0]] or 1)) is not None:
                    return end
                continue
            lines = self._common_lines()
            has_ended = all(code == 0 for code in codes)
            # The last line is held back until the runs have written all they have to write.
            if lines and (has_ended or lines[0].epoch < task.epochs):
                return self._report(lines, has_ended)
            if has_ended:
                return self._end(
                    FAILED, 1, "it has ended without an evaluation of the validation split after its last epoch"
                )
            time.sleep(_POLL_S)

    def _start(self) -> None:
        """Start what has not finished; on from the checkpoints."""
        self._is_started = True
        self._starts += 1
        with self._lock:
            self._run_dirs = [vacant_run_dir(one) for one in self._run_dirs]
            self._trainings = [self._training_in(one, at) for at, one in enumerate(self._run_dirs)]

    def _training_in(self, run_dir: Path, seed: int) -> Training | TrainingOnNodes:
        if self._nodes is not None:
            return TrainingOnNodes(run_dir, self._task.begin_from, self._task.ranks, *self._nodes)
        assert self._host is not None
        return self._host.start(run_dir, train_command(run_dir, self._task.begin_from), **self._devices_of(seed))

    def _devices_of(self, seed: int) -> dict[str, str]:
        """Each of several seeds has its part of the GPUs that Ray has given this worker."""
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        each = len(shown) // len(self._run_dirs)
        if len(self._run_dirs) == 1 or not shown[0] or not each:
            return {}
        return {"CUDA_VISIBLE_DEVICES": ",".join(shown[seed * each : (seed + 1) * each])}

    def _common_lines(self) -> list[Line]:
        """The means over the seeds, for the epochs that all of them have reached and nobody has reported."""
        found = [
            {line.epoch: line for line in validation_lines(one, self._task.metric, self._reported)}
            for one in self._run_dirs
        ]
        common = sorted(set(found[0]).intersection(*found[1:]))
        return [
            Line(epoch, math.fsum(one[epoch].value for one in found) / len(found), found[0][epoch].step)
            for epoch in common
        ]

    def _report(self, lines: list[Line], has_ended: bool) -> dict[str, Any]:
        line = lines[0]
        self._reported, self._step_of_report = line.epoch, line.step
        if not math.isfinite(line.value):
            self._kill()
            return self._end(FAILED, None, f"{self._task.metric} is not a finite number after epoch {line.epoch}")
        done = has_ended and len(lines) == 1
        report = {
            VALUE: line.value,
            EPOCH: line.epoch,
            "done": done,
            "folders": self._folders(),
            OF: self._task.run_dirs[0],
        }
        return {**report, ENDED: FINISHED} if done else report

    def _after_failure(self, at: int, code: int) -> dict[str, Any] | None:
        """The end of the trial, or None where it has been started again."""
        reason = self._trainings[at].why()
        self._kill()
        if (code == Preempted.exit_code or may_run_again(code)) and code != 1 and self._starts <= _MORE_STARTS:
            self._is_started = False
            return None
        return self._end(FAILED, code, reason or f"it ended with exit code {code} and said nothing")

    def _end(self, state: str, code: int | None, reason: str) -> dict[str, Any]:
        """Epoch 0: schedulers leave it out. Never infinity: their percentiles would become NaN."""
        return {VALUE: math.nan, EPOCH: 0, "done": True, ENDED: state, "exit_code": code, "reason": reason}

    def _interrupt(self) -> dict[str, Any]:
        """The search ends: the runs save, and leave their places to whoever resumes it."""
        for one in self._trainings:
            one.ask_to_stop()
        deadline = time.monotonic() + self._task.notice_s + _WAY_OUT_S
        while any(one.poll() is None for one in self._trainings) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self._kill()
        return self._end(INTERRUPTED, None, "")

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """See Trainable: before a pause, or for another trial that goes on from this one's checkpoint. What Ray keeps
        is a name only: the checkpoint is the run's own."""
        if not self._reported or self._step_of_report is None:
            return {"kept": ""}
        kept = kept_checkpoint(self._run_dirs[0], self._reported)
        done = keep_checkpoint(self._run_dirs[0], self._step_of_report, kept, _SAVE_S)
        return {"kept": str(kept) if done else ""}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """See Trainable. The run goes on from its own checkpoints, or begins with that of its task."""

    def _folders(self) -> list[str]:
        return [str(one) for one in self._run_dirs]

    def _timer(self, seconds: float | None) -> None:
        """Kill the runs unless somebody asks again within so many seconds: Tune keeps the workers of trials that it has
        stopped, and does not tell them."""
        if (waiting := getattr(self, "_waiting", None)) is not None:
            waiting.cancel()
        self._waiting = None
        if seconds is not None:
            self._waiting = threading.Timer(seconds, self._kill_unasked)
            self._waiting.daemon = True
            self._waiting.start()

    def _kill_unasked(self) -> None:
        with self._lock:
            for one in self._trainings:
                one.kill()
            self._is_started = False  # should it be asked after all, it goes on from its checkpoint

    def _kill(self) -> None:
        with self._lock:
            for one in self._trainings:
                one.kill()
            self._trainings = []

    def cleanup(self) -> None:
        """See Trainable."""
        self._timer(None)
        self._kill()
        if self._host is not None:
            self._host.close()
        for one in self._nodes or ():
            one.close()
