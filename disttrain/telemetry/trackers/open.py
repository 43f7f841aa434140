"""The trackers that a config names."""

from __future__ import annotations

from collections.abc import Callable

from disttrain.config.sections import TelemetryConfig
from disttrain.log import log
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


_KINDS: dict[str, Callable[[RunInfo], Tracker]] = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}


def open_trackers(config: TelemetryConfig, info: RunInfo) -> Trackers:
    """To be called on rank zero. A tracker that cannot be opened is left out with a warning."""
    opened: list[Tracker] = []
    for name in config.trackers:
        _add(opened, name, lambda name=name: _KINDS[name](info))  # type: ignore[misc]
    if config.prometheus_port is not None:
        port = config.prometheus_port

        def prometheus() -> Tracker:
            from disttrain.telemetry.trackers.prometheus import Prometheus

            return Prometheus(info, port)

        _add(opened, "prometheus", prometheus)
    return Trackers(opened)


def _add(opened: list[Tracker], name: str, make: Callable[[], Tracker]) -> None:
    try:
        opened.append(make())
    except ImportError as error:
        log.warning("%s is not told: %s. pip install 'disttrain[%s]'", name, error, name)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        log.warning("%s is not told: %s: %s", name, type(error).__name__, first)
