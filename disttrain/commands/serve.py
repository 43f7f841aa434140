"""`disttrain serve`."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os

from disttrain.errors import ConfigError
from disttrain.files import user_path

_NEEDED = ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client")


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain serve`; returns the exit code."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"disttrain serve needs {', '.join(missing)}, which this environment lacks: pip install 'disttrain[serve]'."
        )
    from disttrain.serve.settings import API_KEY_VARIABLE, Limits, ServeSettings
    from disttrain.serve.shared_metrics import shared_metrics

    settings = ServeSettings(
        model_dir=user_path(arguments.model),
        host=arguments.host,
        port=arguments.port,
        processes=arguments.processes,
        max_batch_size=arguments.max_batch_size,
        max_wait_ms=arguments.max_wait_ms,
        limits=Limits(
            upload_bytes=arguments.max_upload_mb << 20,
            images=arguments.max_images,
            pixels=arguments.max_pixels,
            request_s=arguments.request_timeout_s,
            queue_images=arguments.max_queue,
        ),
        drain_s=arguments.drain_s,
        watch_s=arguments.watch_s,
        device=arguments.device,
        allow_code=arguments.allow_code,
        api_key=os.environ.get(API_KEY_VARIABLE),
    )
    settings.check()
    # Read when torch is imported. Threads that spin while they wait take the cores from those that answer requests.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Before prometheus_client is imported, which looks for the folder then.
    with shared_metrics() if settings.processes > 1 else contextlib.nullcontext():
        from disttrain.serve.run import serve

        return serve(settings, arguments.quiet)
