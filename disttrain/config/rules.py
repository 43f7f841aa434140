"""The rules that tie config fields to each other: all checked before any process group exists."""

from __future__ import annotations

from disttrain.config.sections import Config
from disttrain.errors import ConfigError

_HOROVOD_ONLY = ("adasum", "fusion_mib", "cycle_time_ms", "autotune", "timeline")


def check_rules(config: Config) -> None:
    """Raise ConfigError for the first combination of fields that cannot work, with the way out."""
    batch, data, optim, train, comm = config.batch, config.data, config.optim, config.train, config.comm
    if batch.micro_batch_size is not None and batch.micro_batch_size > batch.global_batch_size:
        raise ConfigError(
            f"batch.micro_batch_size={batch.micro_batch_size} is larger than "
            f"batch.global_batch_size={batch.global_batch_size}: a micro-batch is one rank's part of a global batch. "
            f"Use micro_batch_size <= {batch.global_batch_size}."
        )
    _check_backend(config)
    _check_shards(config)
    if config.telemetry.one_worker_steps and config.model.sync_batchnorm:
        raise ConfigError(
            f"telemetry.one_worker_steps={config.telemetry.one_worker_steps} with model.sync_batchnorm=true: a rank by "
            "itself would wait for the statistics of the others. Use one_worker_steps=0, or a run with one worker to "
            "compare with."
        )
    if train.profile_steps is not None and train.profile_steps[0] > train.profile_steps[1]:
        raise ConfigError(
            f"train.profile_steps={train.profile_steps} ends before it begins: it is [first, last], e.g. [20, 24]."
        )
    if data.test_fraction + data.val_fraction >= 1:
        raise ConfigError(
            f"data.test_fraction={data.test_fraction} and data.val_fraction={data.val_fraction} leave nothing to "
            "train on: their sum must be below 1."
        )
    if optim.reference_batch_size is not None and optim.lr_scaling == "none":
        raise ConfigError(
            f"optim.reference_batch_size={optim.reference_batch_size} has no effect with optim.lr_scaling=none. "
            "Set lr_scaling to linear or sqrt, or leave reference_batch_size out."
        )
    if optim.name == "sgd" and optim.nesterov and optim.momentum == 0:
        raise ConfigError("optim.nesterov=true needs optim.momentum > 0. Set momentum=0.9 or nesterov=false.")
    if comm.compression == "powersgd" and train.precision == "fp16":
        raise ConfigError(
            "comm.compression=powersgd with train.precision=fp16: scaled fp16 gradients overflow in its "
            "orthogonalisation. Use train.precision=bf16 or comm.compression=bf16."
        )
    if data.test_time_symmetries and not (data.horizontal_flip or data.vertical_flip or data.quarter_turns):
        raise ConfigError(
            "data.test_time_symmetries=true averages over the flips and turns of the augmentation, and none is on. "
            "Switch on data.horizontal_flip, data.vertical_flip or data.quarter_turns."
        )


def _check_backend(config: Config) -> None:
    """Raise ConfigError for what the backend cannot do."""
    model, optim, train, comm = config.model, config.optim, config.train, config.comm
    if train.backend == "ddp":
        chosen = [name for name in _HOROVOD_ONLY if getattr(comm, name) not in (None, False)]
        if chosen:
            raise ConfigError(
                f"comm.{chosen[0]}={getattr(comm, chosen[0])} is a setting of Horovod, and train.backend=ddp. Leave it "
                "out, or set train.backend=horovod."
            )
        return
    if optim.zero_redundancy:
        raise ConfigError(
            "optim.zero_redundancy=true with train.backend=horovod: torch shards the optimizer over its own process "
            "group, which Horovod does not have. Use train.backend=ddp, or optim.zero_redundancy=false."
        )
    if model.sync_batchnorm:
        raise ConfigError(
            "model.sync_batchnorm=true with train.backend=horovod: BatchNorm would share its statistics over torch's "
            "process group, which Horovod does not have. Use train.backend=ddp, or a network with GroupNorm."
        )
    if comm.compression in ("bf16", "powersgd"):
        raise ConfigError(
            f"comm.compression={comm.compression} with train.backend=horovod: Horovod reduces fp16, not bf16, and has "
            "no PowerSGD. Use comm.compression=fp16 or none, or train.backend=ddp."
        )
    if comm.adasum and comm.compression != "none":
        raise ConfigError(
            f"comm.adasum=true with comm.compression={comm.compression} (train.backend=horovod): Adasum compares "
            "gradients by their products, which underflow in fp16. Use comm.compression=none."
        )


def _check_shards(config: Config) -> None:
    """Raise ConfigError for what would make the bits depend on the number of ranks."""
    model, batch, train, comm = config.model, config.batch, config.train, config.comm
    shards = batch.shards
    if not shards:
        return
    if shards & (shards - 1) or shards > batch.global_batch_size:
        largest = 1 << (min(shards, batch.global_batch_size).bit_length() - 1)
        raise ConfigError(
            f"batch.shards={shards} with batch.global_batch_size={batch.global_batch_size}: shards are added in pairs, "
            f"so their number is a power of two, and each needs a sample. Use batch.shards={largest}."
        )
    refused = {
        "train.backend=horovod": (
            train.backend == "horovod",
            "Horovod decides itself in which order ranks are added. Use train.backend=ddp, which runs under mpirun too",
        ),
        f"comm.compression={comm.compression}": (
            comm.compression != "none",
            (
                "how a rank's gradients are rounded on their way depends on how many shards it has added. Use "
                "comm.compression=none"
            ),
        ),
        "model.compile=true": (
            model.compile,
            "compiled code depends on the shapes that a rank happens to meet first. Use model.compile=false",
        ),
        "model.sync_batchnorm=true": (
            model.sync_batchnorm,
            (
                "the shards of a rank go through the network one after the other, so nothing knows them all. Use "
                "model.sync_batchnorm=false, with which BatchNorm takes the statistics of each shard"
            ),
        ),
    }
    for field, (is_on, reason) in refused.items():
        if is_on:
            raise ConfigError(f"{field} with batch.shards={shards}: {reason}, or batch.shards=0.")
