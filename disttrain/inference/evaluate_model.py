"""`disttrain evaluate`: a model directory on labelled data, on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.ddp import DdpComm
from disttrain.comm.device import check_own_gpu, pick_device
from disttrain.comm.network_interface import find_interface
from disttrain.config.sections import CommConfig, DataConfig
from disttrain.data.base import Dataset, ImageArrays
from disttrain.data.open import open_dataset
from disttrain.data.pipeline import EvalPipeline, build_samples
from disttrain.data.transform import Augmentation, ImageTransform
from disttrain.errors import ConfigError, DataError
from disttrain.launch.env import RankEnv
from disttrain.log import log
from disttrain.models.model_dir import ModelSpec, load_model_dir
from disttrain.optim.loss import build_loss
from disttrain.training.evaluate import evaluate

_BATCH_SIZE = 1024


def evaluate_model_dir(
    model_dir: Path,
    data_path: str | None,
    split: str,
    device_name: str,
    allow_code: bool,
    env: RankEnv,
    control_plane: ControlPlane,
) -> dict[str, Any]:
    """The object that `disttrain evaluate` prints; every rank gets it. Raises DisttrainError."""
    device = control_plane.run_on_all("device", lambda: pick_device(device_name, env))
    check_own_gpu(control_plane, device)
    model, spec = control_plane.run_on_all("model", lambda: load_model_dir(model_dir, allow_code))
    dataset = control_plane.run_on_all(
        "data", lambda: _open(spec, data_path, split, verify=env.local_rank == 0), env.local_rank == 0
    )
    transform = ImageTransform(spec.mean, spec.std, Augmentation(), 0, device) if spec.mean else None
    samples = build_samples(dataset, _data_config(spec, data_path), transform, device, 0)
    ids = _ids(dataset, split)
    store, phases = control_plane.store, control_plane.phases
    comm = DdpComm(CommConfig(), store, env.rank, env.world_size, device, phases, find_interface(control_plane))
    try:
        batches = EvalPipeline(samples, ids, _BATCH_SIZE, env.rank, env.world_size)
        result = evaluate(model.to(device), batches, build_loss(), comm, spec.class_names, spec.symmetries)
    finally:
        comm.close()
    log.info("split %s: %d samples on %d rank(s), each counted exactly once", split, result.count, env.world_size)
    return {"split": split, "world_size": env.world_size, **result.as_json()}


def _data_config(spec: ModelSpec, data_path: str | None) -> DataConfig:
    recorded = {key: value for key, value in spec.data.items() if key != "fingerprint"}
    return DataConfig.model_validate({**recorded, **({"path": data_path} if data_path is not None else {})})


def _open(spec: ModelSpec, data_path: str | None, split: str, verify: bool) -> Dataset:
    dataset = open_dataset(_data_config(spec, data_path), verify)
    if dataset.class_names != spec.class_names:
        raise DataError(
            f"the data has the classes {', '.join(dataset.class_names)}, the model was trained on "
            f"{', '.join(spec.class_names)}: give data with the same classes."
        )
    if isinstance(dataset.samples, ImageArrays) and dataset.samples.images.shape[1:] != spec.input_shape:
        raise DataError(
            f"the images are {list(dataset.samples.images.shape[1:])} (channels, height, width), the model takes "
            f"{list(spec.input_shape)}."
        )
    if len(_ids(dataset, split)) == 0:
        raise ConfigError(f"--split {split} is empty in this data. Use --split all.")
    return dataset


def _ids(dataset: Dataset, split: str) -> np.ndarray:
    return np.sort(np.concatenate(list(dataset.splits.values()))) if split == "all" else dataset.splits[split]
