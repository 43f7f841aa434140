"""`disttrain serve`: listen, serve in this process or in several, leave in order."""

from __future__ import annotations

import functools
import os
import sys

from disttrain.errors import ConfigError
from disttrain.log import log
from disttrain.serve.process import listen, log_to_stderr, serve_requests, url_of
from disttrain.serve.settings import ServeSettings
from disttrain.serve.supervise import Supervisor


def serve(settings: ServeSettings, quiet: bool) -> int:
    """Serve until a signal; the exit code. Raises ConfigError, or what the model directory is refused for."""
    log_to_stderr(quiet)
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        raise ConfigError(
            f"--host {settings.host} --port {settings.port} cannot be listened on: {error.strerror}. Give another "
            "port (0: any that is free), or an address of this machine."
        ) from None

    def say_ready() -> None:
        sys.stdout.write(f"ready: {url_of(listener)}\n")
        sys.stdout.flush()

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    work = functools.partial(serve_requests, settings, max(1, cores // settings.processes), listener)
    with listener:
        if settings.api_key is None and settings.host not in ("127.0.0.1", "localhost", "::1"):
            log.warning("other machines may send requests, and no API key is asked for (DISTTRAIN_API_KEY)")
        if settings.processes == 1:
            work(say_ready)
            return 0
        return Supervisor(work, settings.processes, say_ready).run()
