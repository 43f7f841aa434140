"""What users see while ranks run: rank zero speaks, every rank writes its own file, and a warning that many ranks
give is shown once, with their numbers."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from logging.handlers import MemoryHandler
from pathlib import Path

from torch.distributed import DistError, Store
from tqdm import tqdm

from disttrain.comm.failures import render_ranks
from disttrain.log import log

_POLL_S = 0.5
_KEPT_RECORDS = 1000


class _Console(logging.Handler):
    """Standard error, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        _show(_with_level(record))


def _show(line: str) -> None:
    """A line on standard error. In a user's program that may be closed or broken: no reason to end a training."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            tqdm.write(line, file=sys.stderr)


def _with_level(record: logging.LogRecord) -> str:
    message = record.getMessage()
    return message if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {message}"


class _Forward(logging.Handler):
    """Warnings of this rank, put on the store for rank zero to show."""

    def __init__(self, store: Store, rank: int) -> None:
        super().__init__(logging.WARNING)
        self.store, self.rank = store, rank

    def emit(self, record: logging.LogRecord) -> None:
        entry = json.dumps([self.rank, _with_level(record)])
        try:
            index = self.store.add("log/reserved", 1) - 1
            self.store.set(f"log/{index}", entry)
        except DistError:
            pass  # rank zero is gone; the rank's own file has the line


class _RankFile(logging.FileHandler):
    """A rank's own file. A full disk costs its lines, not the run, nor a traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def write_to_rank_file(text: str, level: int = logging.ERROR) -> None:
    """Not through the logger: its other handlers write to the terminal and to the store."""
    record = log.makeRecord(log.name, level, __file__, 0, "%s", (text,), None)
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


class RankLogging:
    """Logging of one rank, until `close`."""

    def __init__(self, store: Store, rank: int, world_size: int, quiet: bool) -> None:
        """`store`: a connection on which nobody waits, so that no log line is held up."""
        self.rank, self.world_size = rank, world_size
        self._handlers: list[logging.Handler] = []
        self._read = 0
        self._waiting: list[tuple[int, str]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._store = store
        log.setLevel(logging.DEBUG)  # the rank's own file has everything
        log.propagate = False
        self._console = _Console(logging.WARNING if quiet else logging.INFO)
        if rank == 0:
            if world_size > 1:
                self._console.addFilter(lambda record: record.levelno < logging.WARNING)
                self._thread = threading.Thread(target=self._show_forwarded, name="log merger", daemon=True)
            self._add(self._console)
        if world_size > 1:
            self._add(_Forward(self._store, rank))
        self._before_file = MemoryHandler(_KEPT_RECORDS, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self._add(self._before_file)
        logging.captureWarnings(True)
        if self._thread is not None:
            self._thread.start()

    def _add(self, handler: logging.Handler) -> None:
        self._handlers.append(handler)
        for logger in (log, logging.getLogger("py.warnings")):
            logger.addHandler(handler)

    def _remove(self, handler: logging.Handler) -> None:
        self._handlers.remove(handler)
        for logger in (log, logging.getLogger("py.warnings")):
            logger.removeHandler(handler)
        handler.close()

    def open_file(self, path: Path) -> None:
        """From now on write everything to this rank's own file too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _RankFile(path, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s rank {self.rank}: %(message)s"))
        self._before_file.setTarget(handler)  # what was said until now: a checkpoint that is refused, for instance
        self._before_file.flush()
        self._remove(self._before_file)
        self._add(handler)

    def _show_forwarded(self) -> None:
        while not self._stop.wait(_POLL_S):
            self._show_new(due={text for _, text in self._waiting})
        self._show_new()

    def _show_new(self, due: set[str] | None = None) -> None:
        """Show what has come, or of it only the texts in `due`: others wait for ranks that may yet give the same."""
        try:
            count = self._store.add("log/reserved", 0)
            entries = [json.loads(self._store.get(f"log/{index}")) for index in range(self._read, count)]
        except DistError:
            return
        self._read = count
        self._waiting += entries
        ranks_by_text: dict[str, list[int]] = {}
        for rank, text in self._waiting:
            if due is None or text in due:
                ranks_by_text.setdefault(text, []).append(rank)
        self._waiting = [entry for entry in self._waiting if entry[1] not in ranks_by_text]
        for text, ranks in ranks_by_text.items():
            _show(f"[{render_ranks(ranks)}] {text}")

    def flush(self) -> None:
        """Show what other ranks have warned of so far."""
        if self._thread is not None:
            self._show_new()

    def close(self) -> None:
        """Show what is left and detach."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        for handler in list(self._handlers):
            self._remove(handler)
        logging.captureWarnings(False)
