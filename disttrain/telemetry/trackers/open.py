"""The trackers that a config names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from disttrain.config.sections import TelemetryConfig
from disttrain.telemetry.trackers.base import RunInfo, Tracker, Trackers


def _tensorboard(info: RunInfo) -> Tracker:
    from disttrain.telemetry.trackers.tensorboard import TensorBoard

    return TensorBoard(info)


def _mlflow(info: RunInfo) -> Tracker:
    from disttrain.telemetry.trackers.mlflow import MLflow

    return MLflow(info)


def _wandb(info: RunInfo) -> Tracker:
    from disttrain.telemetry.trackers.wandb import WeightsAndBiases

    return WeightsAndBiases(info)


def _prometheus(info: RunInfo, port: int) -> Tracker:
    from disttrain.telemetry.trackers.prometheus import Prometheus

    return Prometheus(info, port)


_KINDS: dict[str, Callable[[RunInfo], Tracker]] = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}


def open_trackers(config: TelemetryConfig, info: RunInfo) -> Trackers:
    """To be called on rank zero. A tracker that cannot be opened is left out with a warning."""
    makers: dict[str, Callable[[], Tracker]] = {name: partial(_KINDS[name], info) for name in config.trackers}
    if config.prometheus_port is not None:
        makers["prometheus"] = partial(_prometheus, info, config.prometheus_port)
    return Trackers(makers)
