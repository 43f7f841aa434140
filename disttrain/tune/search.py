"""A search from its driver's side, without Ray: its folder, its journal, what is to be tried next."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import disttrain
from disttrain.config import Config
from disttrain.errors import ConfigError, DisttrainError
from disttrain.system.owner import FolderOwner, Use
from disttrain.tune.history import FAILED, History, Trial, history_of
from disttrain.tune.journal import JOURNAL, Event, Journal, read_journal
from disttrain.tune.points import build_points
from disttrain.tune.search_file import SearchFile
from disttrain.tune.space import parse_space
from disttrain.tune.stop_rules import reason_to_stop
from disttrain.tune.trial_config import TRIALS, base_config, plain_dump, run_config, run_dirs, write_run_config

ENDING = "ending"
_DEFAULT_TRIALS = 20
_LITTLE_ROOM = 1 << 20  # bytes: less than any trial writes


class Search:
    """The driver's knowledge of a search and the only writer of its journal."""

    def __init__(self, output: Path, config: Config, settings: SearchFile, journal: Journal, history: History) -> None:
        """Raises ConfigError for a space that does not fit the config."""
        self.output, self.settings, self.history = output, settings, history
        self.space = parse_space(settings.space, config)
        self.base = base_config(config, settings)
        self.points = build_points(settings, self.space, history.trials.values())
        self.budget = settings.trials or self._default_budget()
        self._journal, self._is_exhausted = journal, False
        self._queue = history.open_trials
        self.ending_reason = ""
        self.failure = ""
        """Where not even `--resume` would go on as things are: what is to be mended."""

    def _default_budget(self) -> int:
        if self.settings.searcher.name != "grid":
            return _DEFAULT_TRIALS
        drawn = [one.values for one in self.history.trials.values()]
        return len(drawn) + sum(one not in drawn for one in self.space.cells())

    def record(self, event: str, **fields: Any) -> Event:
        """Write an event down, then believe it."""
        whole = self._journal.write(event, **fields)
        self.history.apply(whole)
        return whole

    def start(self, argv: list[str]) -> None:
        """Note that the search begins, or goes on, and with what."""
        self.clear_ending()
        self.record(
            "start",
            version=disttrain.__version__,
            command=argv,
            maximize=self.settings.maximize,
            search=self.settings.model_dump(mode="json"),
            base=plain_dump(self.base),
        )

    def next_trial(self) -> Trial | None:
        """The next trial to run, its config written: one that was begun before, else a new point. None where there is
        none (any more)."""
        while not self.ending_reason:
            trial = self._queue.pop(0) if self._queue else self._draw()
            if trial is None or self._is_runnable(trial):
                return trial
        return None

    @property
    def has_more(self) -> bool:
        """Whether `next_trial` might have another one."""
        if self.ending_reason:
            return False
        return bool(self._queue) or (len(self.history.trials) < self.budget and not self._is_exhausted)

    def _draw(self) -> Trial | None:
        number = len(self.history.trials)
        if number >= self.budget or self._is_exhausted:
            return None
        values = self.points.draw(number)
        if values is None:
            self._is_exhausted = True
            return None
        self.record("point", trial=number, values=values)
        return self.history.trials[number]

    def _is_runnable(self, trial: Trial) -> bool:
        try:
            for seed, run_dir in enumerate(run_dirs(self.output, trial, self.settings.seeds)):
                write_run_config(run_dir, run_config(self.history, trial, seed))
        except ConfigError as error:
            self.end(trial, FAILED, error.exit_code, str(error))
            return False
        except OSError as error:  # no other trial would fare better
            self._queue.insert(0, trial)
            self.failure = f"{error.filename} cannot be written: {error.strerror}"
            self.bring_to_end(self.failure)
            return False
        return True

    def end(self, trial: Trial, state: str, exit_code: int | None = None, reason: str = "") -> None:
        """A trial has ended. One that failed since its disk is full goes on with the search, once there is room."""
        if state == FAILED and (why := _full_disk(self.output, reason)):
            self.record("pause", trial=trial.number)
            self.failure = f"{self.output} cannot be written: {why}"
            self.bring_to_end(self.failure)
            return
        self.record("end", trial=trial.number, state=state, exit_code=exit_code, reason=reason, epoch=trial.epoch)
        self.points.tell(trial)

    def report(self, trial: Trial, epoch: int, value: float) -> None:
        """A trial has reported; what it had reported before an accident is passed over."""
        if epoch > trial.epoch and math.isfinite(value):
            self.record("report", trial=trial.number, epoch=epoch, value=value)

    def copy(self, trial: Trial, parent: Trial, values: dict[str, Any], epoch: int, checkpoint: Path) -> None:
        """A trial goes on from another one's checkpoint, with other values, in a new folder."""
        folder = next(
            name for n in range(1, 10_000) if not (self.output / (name := f"{TRIALS}/{trial.name}.copy-{n}")).exists()
        )
        place = str(checkpoint.relative_to(self.output.absolute()))
        self.record(
            "copy",
            trial=trial.number,
            parent=parent.number,
            values=values,
            epoch=epoch,
            folder=folder,
            checkpoint=place,
        )
        (run_dir,) = run_dirs(self.output, trial, 1)
        write_run_config(run_dir, run_config(self.history, trial, 0))

    def check_rules(self) -> None:
        """Bring the search to its end where one of its rules says so."""
        if not self.ending_reason and (reason := reason_to_stop(self.settings.stop, self.history, time.time())):
            self.bring_to_end(reason)

    def bring_to_end(self, reason: str) -> None:
        """No other trial begins; those that run save and leave."""
        self.ending_reason = reason
        with contextlib.suppress(OSError):  # then they are killed, and go on from the checkpoint before
            self.ending_path.touch()

    @property
    def ending_path(self) -> Path:
        """Exists while trials are asked to save and to leave."""
        return self.output / ENDING

    def clear_ending(self) -> None:
        """Let trials run."""
        self.ending_path.unlink(missing_ok=True)


def _full_disk(folder: Path, reason: str) -> str:
    """Why no trial can write there any more; empty where it can. A log on that disk may lack a trial's last words."""
    for number in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(number) in reason:
            return os.strerror(number)
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < _LITTLE_ROOM:
            return os.strerror(errno.ENOSPC)
    return ""


@contextlib.contextmanager
def open_search(output: Path, config: Config, settings: SearchFile, resume: bool) -> Iterator[Search]:
    """The search in a folder, this process being its only driver.

    Raises ConfigError where another driver has it, where it holds a search and `resume` was not asked for, or one that
    cannot be gone on with; IntegrityError for a damaged journal.
    """
    path = output / JOURNAL
    if path.exists() and not resume:
        raise ConfigError(f"{output} holds a search already. Go on with it by --resume, or use another --output.")
    parse_space(settings.space, config)  # before a folder is made for nothing
    base_config(config, settings)
    with contextlib.ExitStack() as stack:
        try:
            output.mkdir(parents=True, exist_ok=True)
            owner = FolderOwner(output, use=Use("search folder", "searches", "--output"))
            stack.callback(owner.close)
            history = history_of(read_journal(path))
            _check_same_search(output, history, settings)
            journal = Journal(path)
        except OSError as error:
            raise ConfigError(f"the search's folder {output} cannot be written: {error.strerror}.") from None
        stack.callback(_close, journal)
        yield Search(output, config, settings, journal, history)


def _close(journal: Journal) -> None:
    try:
        journal.close()
    except OSError as error:
        raise DisttrainError(
            f"{error.filename} cannot be written ({error.strerror}): what trials have reported last is not in it. Make "
            "room there; the same command with --resume goes on."
        ) from None


def _check_same_search(output: Path, history: History, settings: SearchFile) -> None:
    if not history.starts:
        return
    before = history.starts[-1]["search"]
    for name, now in (("metric", settings.metric), ("seeds", settings.seeds)):
        if before[name] != now:
            raise ConfigError(
                f"{name}={now!r}, but the search in {output} began with {before[name]!r}: its trials could not be "
                f"compared with new ones. Set {name} back, or use another --output."
            )
