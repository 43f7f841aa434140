"""A search under a real Ray whose trials train nothing: they follow recorded learning curves. Part of search.py."""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from ray import tune

from disttrain.config import build_config
from disttrain.tune import ray_trial, ray_watch
from disttrain.tune.history import FINISHED
from disttrain.tune.ray_search import Place, run_search
from disttrain.tune.search import open_search
from disttrain.tune.search_file import build_search
from disttrain.tune.table import Display
from disttrain.tune.watchers import Interrupts, Watchers

_QUARTERS = 4


class CurveWorker(tune.Trainable):  # type: ignore[misc]
    """Reports what a recorded training reported."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        task = new_config["task"]
        curves = json.loads(Path(task.preload[0]).read_text())["curves"]
        self._of = task.run_dirs[0]
        self._curve, self._epoch = curves[int(task.name) % len(curves)], task.after_epoch
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self._curve["seconds"][self._epoch])
        self._epoch += 1
        done = self._epoch == len(self._curve["accuracy"])
        report = {"value": self._curve["accuracy"][self._epoch - 1], "epoch": self._epoch, "done": done}
        return {
            **report,
            "folders": [self._of],
            ray_trial.OF: self._of,
            **({ray_trial.ENDED: FINISHED} if done else {}),
        }


def main() -> None:
    """`SETTINGS`: a JSON file with curves, trials, places and the output folder, in which `cpu.json` is left."""
    path = Path(sys.argv[1])
    settings = json.loads(path.read_text())
    used: list[float] = []
    usual = ray_watch.Watch.on_trial_result

    def counted(self: Any, *arguments: Any, **info: Any) -> None:
        usual(self, *arguments, **info)
        used.append(time.process_time())

    ray_trial.TrialWorker = CurveWorker  # type: ignore[misc]
    ray_watch.Watch.on_trial_result = counted  # type: ignore[method-assign]
    search_file = build_search(
        {
            "space": {"optim.lr": {"loguniform": [3e-4, 3e-2]}},
            "trials": settings["trials"],
            "concurrency": settings["places"],
            "resources": {"cpus_per_worker": 0.01},
        }
    )
    config = build_config({"train": {"epochs": len(settings["curves"][0]["accuracy"])}})
    with open_search(Path(settings["output"]), config, search_file, resume=False) as search:
        search.start(["simulated"])
        watchers = Watchers(Display("accuracy", search.budget, True), Interrupts(search), lambda: None)
        run_search(search, Place(None, [str(path)]), watchers)
    edges = [len(used) * at // _QUARTERS for at in range(_QUARTERS + 1)]
    costs = [(used[high - 1] - used[low]) / (high - low) * 1000 for low, high in itertools.pairwise(edges)]
    (Path(settings["output"]) / "cpu.json").write_text(json.dumps(costs))


if __name__ == "__main__":
    main()
