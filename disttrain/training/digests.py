"""Digests of every step: what two runs compare that should have the same bits, and do not.

`digests.jsonl` begins with a line for step 0: the names of the tensors, the weights' digests before the first step and
where the run computes. Each further line has the digests of a step: of the gradients as all ranks have them, before
clipping, and of the weights and buffers after the step. A digest is the sum of a tensor's bits, read as integers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from disttrain.config import Config
from disttrain.errors import ConfigError, DataError, IntegrityError
from disttrain.log import log
from disttrain.run_dir import DIGESTS
from disttrain.telemetry.metrics_file import MetricsFile
from disttrain.training.integrity import checksums

_GRADIENTS, _WEIGHTS = "gradients", "weights"
_NAMES = {_GRADIENTS: "gradient_names", _WEIGHTS: "weight_names"}


@dataclass(frozen=True)
class RecordedDigests:
    """What another run has recorded."""

    run_dir: Path
    head: dict[str, Any]
    steps: dict[int, dict[str, Any]]

    @classmethod
    def load(cls, run_dir: Path) -> RecordedDigests:
        """Raises DataError where the file is missing or is not one of digests."""
        path = run_dir / DIGESTS
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return cls(run_dir, lines[0], {line["step"]: line for line in lines})
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(
                f"{path} cannot be read ({error}): --verify-against needs a run that was trained with "
                "train.record_digests=true."
            ) from None


class StepDigests:
    """The digests of one rank's steps: recorded, compared with those of another run, or both."""

    def __init__(
        self,
        model: nn.Module,
        environment: dict[str, Any],
        record: Path | None = None,
        other: RecordedDigests | None = None,
    ) -> None:
        """`environment` says where the run computes; `record` is the file to write, None for none.

        Raises ConfigError where the other run's network has other tensors.
        """
        self._environment, self._record, self._other = environment, record, other
        trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._tensors: dict[str, dict[str, torch.Tensor]] = {_GRADIENTS: {**trained}, _WEIGHTS: state}
        self._file: MetricsFile | None = None
        self._gradients: list[int] = []
        self._has_begun = False
        self._last_equal: int | None = None
        if other is not None:
            for kind, key in _NAMES.items():
                if other.head.get(key) != list(self._tensors[kind]):
                    raise ConfigError(
                        f"--verify-against {other.run_dir}: that run trains another network (its {kind} have other "
                        "names). Name a run of the same config."
                    )

    def before_update(self, step: int) -> None:
        """To be called once the gradients are those of the whole global batch, after `step` finished steps.

        Raises IntegrityError where the weights with which the run begins differ from the other run's.
        """
        if not self._has_begun:
            self._begin(step)
        self._gradients = _digests([one.grad for one in self._tensors[_GRADIENTS].values()])

    def after_update(self, step: int) -> None:
        """To be called when step number `step`, from 1, is finished. Raises IntegrityError where it differs."""
        found = {_GRADIENTS: self._gradients, _WEIGHTS: self._weights()}
        if self._file is not None:
            self._file.write(step=step, **found)
        if self._other is None:
            return
        recorded = self._other.steps.get(step)
        if recorded is None:
            log.warning("%s has no digests of step %d and later: not compared", self._other.run_dir, step)
            self._other = None
            return
        for kind in (_GRADIENTS, _WEIGHTS):
            self._compare(step, kind, found[kind], recorded[kind])
        self._last_equal = step

    def close(self) -> None:
        """Say what was compared, and close the file."""
        if self._last_equal is not None and self._other is not None:
            log.info("up to step %d every digest is that of %s", self._last_equal, self._other.run_dir)
        if self._file is not None:
            self._file.close()

    def _begin(self, step: int) -> None:
        self._has_begun = True
        weights = self._weights()
        if self._record is not None:
            is_new = not self._record.exists()
            self._file = MetricsFile(self._record, step)
            if is_new:
                names = {key: list(self._tensors[kind]) for kind, key in _NAMES.items()}
                self._file.write(step=0, **names, weights=weights if step == 0 else None, environment=self._environment)
        recorded = self._other.steps.get(step, {}).get(_WEIGHTS) if self._other is not None else None
        if recorded is not None:
            self._compare(step, _WEIGHTS, weights, recorded)
            self._last_equal = step

    def _weights(self) -> list[int]:
        return _digests(list(self._tensors[_WEIGHTS].values()))

    def _compare(self, step: int, kind: str, found: Sequence[int], recorded: Sequence[int]) -> None:
        if list(found) == list(recorded):
            return
        assert self._other is not None
        pairs = zip(found, recorded, strict=True)
        names = [name for name, (here, there) in zip(self._tensors[kind], pairs, strict=True) if here != there]
        others = f" (and {len(names) - 1} more of {len(found)})" if len(names) > 1 else ""
        what = {
            _GRADIENTS: f"in step {step} the gradient of {names[0]!r}{others} differs",
            _WEIGHTS: f"after step {step} {names[0]!r}{others} differs",
        }[kind]
        what += f" from that of {self._other.run_dir}"
        if kind == _WEIGHTS and step != self._last_equal and self._last_equal is not None:
            what += ", though the gradients of the step are the same"
        before = "Nothing before was compared" if self._last_equal is None else (
            f"The weights after step {self._last_equal} were the same"
        )  # fmt: skip
        raise IntegrityError(f"{what}. {before}. {self._places()} What changes bits is in docs/reproducibility.md.")

    def _places(self) -> str:
        assert self._other is not None
        there = self._other.head.get("environment", {})
        keys = sorted(there.keys() | self._environment.keys())
        differences = [
            f"{key} {there.get(key)!r} there and {self._environment.get(key)!r} here"
            for key in keys
            if there.get(key) != self._environment.get(key)
        ]
        return (
            f"The runs differ in: {'; '.join(differences)}." if differences else "Both say the same of where they run."
        )


def environment(config: Config, device: torch.device, world_size: int) -> dict[str, Any]:
    """What decides about bits beside the config."""
    found = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precision": config.train.precision,
        "shards": config.batch.shards,
    }
    return found if config.batch.shards else {**found, "world_size": world_size}


def _digests(tensors: Sequence[torch.Tensor | None]) -> list[int]:
    found = checksums([one.detach() for one in tensors if one is not None]).tolist()
    digests = iter(found)
    return [0 if one is None else next(digests) for one in tensors]
