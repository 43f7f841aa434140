"""MLflow: in `MLFLOW_TRACKING_URI` or, without one, in `mlruns/` beside the run directory."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from disttrain.files import write_atomically
from disttrain.telemetry.trackers.base import RunInfo

_ID_FILE = "mlflow.txt"
_STATES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_MOST_PARAMS = 90  # of one request: MLflow takes 100


class MLflow:
    """One run of MLflow; a run that goes on finds it by the id that lies in the run directory."""

    name = "mlflow"

    def __init__(self, info: RunInfo) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (info.run_dir.resolve().parent / "mlruns").as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        path = info.run_dir / _ID_FILE
        self._run_id = self._known(path.read_text(encoding="utf-8").strip()) if path.exists() else ""
        if not self._run_id:
            self._run_id = self._begin(info)
            write_atomically(path, self._run_id + "\n")

    def _known(self, run_id: str) -> str:
        """The id where the store knows it, else nothing: it may have been another store then."""
        try:
            self._client.update_run(run_id, status="RUNNING")
        except Exception:
            return ""
        return run_id

    def _begin(self, info: RunInfo) -> str:
        found = self._client.get_experiment_by_name(info.project)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(info.project)
        run_id = str(self._client.create_run(experiment, run_name=info.name).info.run_id)
        params = [Param(name, text[:500]) for name, text in info.config.items()]
        for at in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run_id, params=params[at : at + _MOST_PARAMS])
        return run_id

    def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        metrics = [Metric(name, value, int(1000 * time), step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self, state: str, result: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name in ("test/loss", "test/accuracy"):
            if name in result:
                self._client.log_metric(self._run_id, name, result[name], step=int(result["step"]))
        self._client.set_terminated(self._run_id, _STATES.get(state, "FAILED"))
