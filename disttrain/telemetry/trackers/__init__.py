"""Programs that show runs beside each other: TensorBoard, MLflow, Weights & Biases, Prometheus."""

from disttrain.telemetry.trackers.base import RunInfo, Tracker, Trackers
from disttrain.telemetry.trackers.open import open_trackers

__all__ = ["RunInfo", "Tracker", "Trackers", "open_trackers"]
