"""Every setting of a run: one class a section, one docstring a field.

The docstrings are the reference: `disttrain train --help-config` and the JSON schema are made from them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A group of fields: unknown keys and wrong types are refused, values never change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelConfig(Section):
    """The network."""

    name: str = "planesnet_cnn"
    """`planesnet_cnn`, `mnist_mlp`, `mnist_cnn`, `torchvision:NAME` or `package.module:function`."""
    dropout: Fraction = 0.0
    """Dropout probability, for the networks that have dropout."""
    kwargs: dict[str, Any] = {}
    """Further keyword arguments of the network's constructor."""
    channels_last: bool = False
    """Keep images and convolution weights in NHWC memory order: faster for convolutions on GPUs with bf16 or fp16."""
    compile: bool = False
    """Compile the network with `torch.compile`."""
    sync_batchnorm: bool = False
    """Turn BatchNorm layers into ones that share their statistics over all ranks."""


class DataConfig(Section):
    """The samples, their split and their augmentation."""

    name: str = "synthetic_planes"
    """`planesnet`, `mnist`, `image_folder`, `synthetic_planes` or `package.module:function`."""
    path: str | None = None
    """Folder, zip or JSON file with the data. `mnist` without a path is downloaded, `synthetic_planes` is drawn."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of a `package.module:function` dataset; `count` and `seed` of `synthetic_planes`."""
    split: Literal["auto", "scene", "random", "official"] = "auto"
    """How samples are divided: by `scene` id (no scene on two sides), at `random`, or as published (`official`).
    `auto` takes `scene` where there are scenes, `official` where there is a published split, else `random`."""
    test_fraction: Fraction = 0.15
    """Share of the scenes (or samples) held out for the final figure."""
    val_fraction: Fraction = 0.0
    """Share of the scenes (or samples) held out for the curve that is watched while training."""
    image_size: list[Count] | None = Field(default=None, min_length=2, max_length=2)
    """`[height, width]` in pixels to which `image_folder` resizes. Needed when the images differ in size."""
    cache_dir: str | None = None
    """Where decoded images are kept. Default: `disttrain/` in the user's cache folder."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, with a warning, instead of stopping. Not for images that are streamed."""
    placement: Literal["auto", "device", "stream"] = "auto"
    """`device` keeps all samples as uint8 in the memory of the device, `stream` loads them batch by batch.
    `auto` takes `device` up to `device_budget_mib`."""
    device_budget_mib: Count = 2048
    """Decoded size in MiB up to which `placement: auto` keeps a dataset on the device."""
    loader_workers: NonNegativeInt = 2
    """Loader processes per rank when streaming (0: load in the training process)."""
    loader_timeout_s: Positive = 300.0
    """Longest wait for a batch from the loader processes, in seconds, before the run ends with exit code 3."""
    prefetch_batches: Count = 4
    """Micro-batches that each loader process prepares ahead when streaming."""
    horizontal_flip: bool = False
    """Augmentation: mirror left and right, one sample in two."""
    vertical_flip: bool = False
    """Augmentation: mirror top and bottom, one sample in two."""
    quarter_turns: bool = False
    """Augmentation: turn by 0, 90, 180 or 270 degrees (square images)."""
    shift_px: NonNegativeInt = 0
    """Augmentation: shift by up to this many pixels either way, the border reflected."""
    zoom: Fraction = 0.0
    """Augmentation: resize about the centre so that 1 minus to 1 plus this of the image's width and height fill the
    image, bilinearly, the border reflected."""
    brightness: NonNegative = 0.0
    """Augmentation: add up to this much either way to a whole normalised image (in standard deviations)."""
    contrast: Fraction = 0.0
    """Augmentation: multiply a whole normalised image by a factor of 1 minus to 1 plus this."""
    test_time_symmetries: bool = False
    """Average predictions over the flips and turns that the augmentation uses, one forward pass for each."""


class BatchConfig(Section):
    """How many samples go where in a step."""

    global_batch_size: Count = 256
    """Samples per optimizer step over all ranks."""
    micro_batch_size: Count | None = None
    """Samples per rank per forward/backward. Default: the rank's whole share of the global batch, or a whole shard."""
    eval_batch_size: Count = 1024
    """Samples per rank per forward pass when evaluating."""
    shards: NonNegativeInt = 0
    """Cut every global batch into this many shards (a power of two), which ranks take whole and whose gradients are
    added along one tree: the same bits on any number of ranks up to this one. 0: one slice for each rank, and the same
    result to float rounding. See docs/reproducibility.md."""


class OptimConfig(Section):
    """The optimizer, its learning rate over time, and what is done to the gradients."""

    name: Literal["adamw", "sgd"] = "adamw"
    """The optimizer."""
    lr: Positive = 1e-3
    """Peak learning rate (for `reference_batch_size`, where that is given)."""
    reference_batch_size: Count | None = None
    """The global batch size for which `lr` was found. Default: `batch.global_batch_size`."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """How `lr` follows the global batch size: `linear` (Goyal et al. 2017), `sqrt` (Krizhevsky 2014) or `none`."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """Learning rate after warm-up: constant, half a cosine down to `final_lr_fraction`, or one cycle
    (cosine up over `warmup_fraction` from lr/25, cosine down; Smith and Topin 2018)."""
    warmup_fraction: Fraction = 0.0
    """Share of all steps in which the learning rate rises. `one_cycle` with 0 takes 0.3."""
    final_lr_fraction: Fraction = 0.0
    """Learning rate at the last step as a share of the peak, for `cosine` and `one_cycle`."""
    momentum: Fraction = 0.9
    """Momentum of `sgd`."""
    nesterov: bool = True
    """Nesterov momentum of `sgd`."""
    beta1: Fraction = 0.9
    """Decay of AdamW's first moment."""
    beta2: Fraction = 0.999
    """Decay of AdamW's second moment."""
    weight_decay: NonNegative = 0.0
    """Weight decay. Applied to weights of two or more dimensions only: not to biases and norms."""
    clip_norm: Positive | None = None
    """Largest gradient norm over the global batch; larger gradients are scaled down to it."""
    zero_redundancy: bool = False
    """Shard the optimizer's state over ranks (`ZeroRedundancyOptimizer`, Rajbhandari et al. 2020, stage 1)."""


class TrainConfig(Section):
    """The run as a whole."""

    epochs: Count = 10
    """Passes over the training split."""
    max_steps: Count | None = None
    """Stop after this many optimizer steps, whatever `epochs` says."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the weights, the sample order, the augmentation and dropout."""
    backend: Literal["ddp", "horovod"] = "ddp"
    """Who averages the gradients: torch's DistributedDataParallel or Horovod."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass: `bf16` and `fp16` through autocast, `fp16` with a gradient scaler."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where ranks compute: one GPU a rank, or the CPU. `auto` takes GPUs where there are any."""
    workers: Count | None = None
    """Ranks that `disttrain train` starts on this machine where `--workers` says nothing. Default: one per GPU, else 1.
    Without `batch.shards` another number gives the same result to float rounding only. Launchers bring their own."""
    cpu_threads: Count | None = None
    """Threads of one rank on the CPU. Default: what OMP_NUM_THREADS says or the launcher gives; 1 with `batch.shards`,
    since kernels split sums by thread and another number gives other bits."""
    label_smoothing: Fraction = 0.0
    """Share of the target spread over all classes (Szegedy et al. 2016)."""
    ema_decay: Fraction = 0.0
    """Decay per step of the weights' moving average, which is then evaluated and exported. 0: none."""
    log_every_steps: Count = 25
    """Steps between lines in `metrics.jsonl`."""
    eval_every_epochs: NonNegativeInt = 1
    """Epochs between evaluations on the validation split, where there is one. 0: never."""
    test_at_end: bool = True
    """Evaluate the test split once the training has ended. What chooses between trainings must not see that figure:
    `disttrain tune` switches it off."""
    nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """What follows a step whose loss or gradient is not finite. That step never changes the weights; then the run
    stops with exit code 4, skips the batch, or rolls back to the last checkpoint's weights and goes on behind it."""
    nonfinite_retries: Count = 3
    """How often in a run `skip` and `rollback` help before the run stops with exit code 4."""
    check_weights_every_steps: NonNegativeInt = 100
    """Steps between comparisons of the weights over all ranks; where they differ the run stops with exit code 5.
    They are compared before every checkpoint too. 0: never."""
    profile_steps: list[Count] | None = Field(default=None, min_length=2, max_length=2)
    """`[first, last]`: steps of which each rank writes a trace of torch's profiler to `profile/` of the run directory,
    to be opened in Perfetto. They take longer than others."""
    record_digests: bool = False
    """Write a digest of every gradient and weight after every step to `digests.jsonl`, for `train --verify-against`."""


class CommConfig(Section):
    """Communication between ranks."""

    bucket_mib: Positive | None = None
    """Size in MiB of the gradient buckets that are reduced while backward still runs. Default: torch's own sizes, a
    first bucket of 1 MiB, so that the exchange begins early, and 25 MiB for the others."""
    compression: Literal["none", "bf16", "fp16", "powersgd"] = "none"
    """Gradients travel as they are, as bf16 or fp16, or as low-rank factors (PowerSGD, Vogels et al. 2019)."""
    powersgd_rank: Count = 2
    """Rank of PowerSGD's factors."""
    adasum: bool = False
    """Horovod: combine gradients with Adasum (Maleki et al. 2020) instead of their mean."""
    fusion_mib: NonNegative | None = None
    """Horovod: size in MiB up to which it fuses buckets that are ready at the same moment. More than two ranks then
    repeat a run to float rounding only. Default: buckets stay as they are."""
    cycle_time_ms: Positive | None = None
    """Horovod: milliseconds between its looks for tensors that are ready on all ranks. Default: Horovod's, 1 ms."""
    autotune: bool = False
    """Horovod: let it search for the best fusion size and cycle time while training."""
    timeline: str | None = None
    """Horovod: file for its record of all operations, to be opened in chrome://tracing."""
    timeout_s: Positive = 60.0
    """Longest wait for another rank, in seconds, before the run ends with exit code 144."""


class CheckpointConfig(Section):
    """What is kept to go on from."""

    every_steps: NonNegativeInt = 0
    """Optimizer steps between checkpoints. 0: once an epoch."""
    keep: Count = 3
    """How many of the newest checkpoints stay, besides the best."""
    best: Literal["loss", "accuracy"] = "loss"
    """The validation figure by which the best checkpoint is chosen, where there is a validation split."""
    notice_s: Positive = 30.0
    """Seconds between the signal that asks a run to stop and the moment it is killed, as the scheduler grants them.
    A last checkpoint that would take longer is not begun: the one before stands."""


class TelemetryConfig(Section):
    """What is recorded of the machines, and who is told of the run."""

    every_s: NonNegative = 10.0
    """Seconds between two samples of each rank's process, node and GPU, as lines of `metrics.jsonl`. 0: none."""
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = []
    """Programs that are told of the run, each an extra of the package: `tensorboard`, `mlflow`, `wandb`."""
    project: str = "disttrain"
    """Under which name MLflow (as experiment) and W&B keep the run."""
    prometheus_port: Annotated[int, Field(ge=0, lt=65536)] | None = None
    """Port of rank zero's host at which Prometheus finds the last figures. 0: one that is free."""
    one_worker_steps: NonNegativeInt = 0
    """Steps that rank zero trains by itself at every start, on a copy that is thrown away, while the others wait: so
    `result.json` can say how well the ranks scale. 0: none."""


class Config(Section):
    """A whole run, as read from one YAML file."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    batch: BatchConfig = BatchConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    comm: CommConfig = CommConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
