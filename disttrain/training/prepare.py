"""Everything that a rank can make ready on its own: data, plan, network. What is wrong with a run shows here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from disttrain.config import Config
from disttrain.data.base import Dataset, ImageArrays
from disttrain.data.batch_plan import BatchPlan
from disttrain.data.identity import data_identity
from disttrain.data.open import open_dataset
from disttrain.data.pipeline import Samples, build_samples
from disttrain.data.sample_contract import SampleContract
from disttrain.data.shards import build_plan
from disttrain.data.split import check_training_split
from disttrain.data.statistics import as_image, channel_statistics
from disttrain.data.transform import NO_SYMMETRIES, Augmentation, ImageTransform, Symmetry
from disttrain.errors import DataError, DisttrainError
from disttrain.launch.env import RankEnv
from disttrain.models.build import build_model
from disttrain.models.model_dir import ModelSpec
from disttrain.optim.loss import UserLoss
from disttrain.optim.loss_contract import LossFinding
from disttrain.run_dir import check_run_dir
from disttrain.system.owner import check_not_owned
from disttrain.training.same_data import check_same_data
from disttrain.training.trial import Trial, finish_lazy_layers, try_out
from disttrain.training.writable import check_description


@dataclass(frozen=True)
class Request:
    """What to train, as the command line or `fit` asks for it."""

    config: Config
    run_dir: Path
    resume: str = "auto"
    quiet: bool = False
    model: nn.Module | None = None
    """The user's own network; else `config.model` names one."""
    dataset: Callable[[], Dataset] | None = None
    """Opens the user's own data; else `config.data` names it."""
    loss: UserLoss | None = None
    accept_changes: bool = False
    """Go on with the run directory's checkpoint although the config has changed."""
    verify_against: Path | None = None
    """The directory of a run whose digests every step has to have."""


@dataclass(frozen=True)
class Prepared:
    """What one rank brings to the training."""

    dataset: Dataset
    plan: BatchPlan
    samples: Samples
    model: nn.Module
    loss: LossFinding
    spec: ModelSpec
    symmetries: tuple[Symmetry, ...]
    data_identity: dict[str, Any]
    """On rank zero what tells the data from others, else empty."""


def prepare(request: Request, env: RankEnv, device: torch.device) -> Prepared:
    """Open the data, check every number, build the network. Raises the error that the user should see."""
    config = request.config
    check_run_dir(request.run_dir, config, request.resume, request.accept_changes)
    check_not_owned(request.run_dir, env.job_id)
    dataset = request.dataset() if request.dataset else open_dataset(config.data, verify=env.local_rank == 0)
    identity = data_identity(dataset) if env.is_rank_zero else {}
    if env.is_rank_zero and request.resume != "never":
        check_same_data(request.run_dir, identity, request.accept_changes)
    if dataset.labels is not None:
        check_training_split(config.data, dataset.labels, dataset.class_names, dataset.splits["train"])
    plan = build_plan(config.batch, len(dataset.splits["train"]), env.world_size)
    input_shape = _input_shape(dataset)
    transform = _build_transform(config, dataset, input_shape, device)
    torch.manual_seed(config.train.seed)  # the same initial weights on every rank, for any number of ranks
    model = request.model or build_model(config.model, input_shape, _class_count(config, dataset))
    samples = build_samples(dataset, config.data, transform, device, config.train.seed, float_dtype_of(model))
    finish_lazy_layers(model, samples, dataset.splits["train"], device)
    averaged = transform is not None and config.data.test_time_symmetries
    symmetries = transform.augmentation.symmetries if transform and averaged else NO_SYMMETRIES
    spec = ModelSpec(
        model=config.model.name if request.model is None else "",
        kwargs=config.model.kwargs,
        dropout=config.model.dropout,
        input_shape=input_shape,
        class_names=dataset.class_names,
        mean=transform.mean if transform else (),
        std=transform.std if transform else (),
        resize=dataset.resize,
        symmetries=symmetries,
        data={**config.data.model_dump(), "fingerprint": dataset.fingerprint},
    )
    check_description(spec)
    loss = try_out(Trial(config, dataset, plan, samples, device, request.loss, request.model is not None), model)
    return Prepared(dataset, plan, samples, model, loss, spec, symmetries, identity)


def _input_shape(dataset: Dataset) -> tuple[int, ...]:
    if isinstance(dataset.samples, ImageArrays):
        return dataset.samples.images.shape[1:]
    return tuple(getattr(_first_input(dataset), "shape", ()))


def float_dtype_of(model: nn.Module) -> torch.dtype:
    """The type of the network's weights, in which it takes its inputs."""
    return next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)


def _first_input(dataset: Dataset) -> Any:
    index = int(dataset.splits["train"][0])
    try:
        return SampleContract(dataset.class_names).read(dataset.samples[index], index)[0]  # type: ignore[index]
    except DisttrainError:
        raise
    except Exception as error:
        raise DataError(f"sample {index} of the dataset raised {type(error).__name__}: {error}") from error


def _class_count(config: Config, dataset: Dataset) -> int:
    if not dataset.class_names:
        raise DataError(
            f"data.name={config.data.name} names no classes, so the number of the network's outputs is not known. Give "
            "the dataset an attribute `classes` with their names."
        )
    return len(dataset.class_names)


def _build_transform(
    config: Config, dataset: Dataset, input_shape: tuple[int, ...], device: torch.device
) -> ImageTransform | None:
    """Normalisation and augmentation for uint8 images; None for samples of any other kind, which stay as they are."""
    if not isinstance(dataset.samples, ImageArrays) and as_image(_first_input(dataset)) is None:
        return None
    mean, std = channel_statistics(dataset)
    augmentation = Augmentation.build(config.data, *input_shape[1:])
    return ImageTransform(mean, std, augmentation, config.train.seed, device, config.model.channels_last)
