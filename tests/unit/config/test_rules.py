"""Fields that contradict each other are refused, with the way out; their neighbours are not."""

from __future__ import annotations

from typing import Any

import pytest

from disttrain.config import build_config
from disttrain.errors import ConfigError

Values = dict[str, dict[str, Any]]

REFUSED: list[tuple[Values, str]] = [
    ({"batch": {"global_batch_size": 8, "micro_batch_size": 9}}, "Use micro_batch_size <= 8"),
    ({"data": {"test_fraction": 0.5, "val_fraction": 0.5}}, "their sum must be below 1"),
    ({"optim": {"reference_batch_size": 32}}, "has no effect with optim.lr_scaling=none"),
    ({"optim": {"name": "sgd", "momentum": 0.0}}, "Set momentum=0.9 or nesterov=false"),
    ({"comm": {"compression": "powersgd"}, "train": {"precision": "fp16"}}, "Use train.precision=bf16"),
    ({"data": {"test_time_symmetries": True}}, "none is on"),
    ({"comm": {"fusion_mib": 64.0}}, "or set train.backend=horovod"),
    ({"comm": {"adasum": True}}, "or set train.backend=horovod"),
    ({"train": {"backend": "horovod"}, "optim": {"zero_redundancy": True}}, "Use train.backend=ddp"),
    ({"train": {"backend": "horovod"}, "model": {"sync_batchnorm": True}}, "a network with GroupNorm"),
    ({"train": {"backend": "horovod"}, "comm": {"compression": "bf16"}}, "Use comm.compression=fp16"),
    ({"train": {"backend": "horovod"}, "comm": {"adasum": True, "compression": "fp16"}}, "Use comm.compression=none"),
    ({"batch": {"shards": 6}}, "Use batch.shards=4"),
    ({"batch": {"shards": 16, "global_batch_size": 9}}, "Use batch.shards=8"),
    ({"batch": {"shards": 8}, "train": {"backend": "horovod"}}, "Use train.backend=ddp, which runs under mpirun too"),
    ({"batch": {"shards": 8}, "comm": {"compression": "powersgd"}}, "Use comm.compression=none, or batch.shards=0"),
    ({"batch": {"shards": 8}, "model": {"compile": True}}, "Use model.compile=false, or batch.shards=0"),
    ({"batch": {"shards": 8}, "model": {"sync_batchnorm": True}}, "BatchNorm takes the statistics of each shard"),
    ({"telemetry": {"one_worker_steps": 5}, "model": {"sync_batchnorm": True}}, "Use one_worker_steps=0"),
]
ACCEPTED: list[Values] = [
    {"batch": {"global_batch_size": 8, "micro_batch_size": 8}},
    {"data": {"test_fraction": 0.5, "val_fraction": 0.49}},
    {"data": {"test_fraction": 0.0, "val_fraction": 0.0}},
    {"optim": {"reference_batch_size": 32, "lr_scaling": "linear"}},
    {"optim": {"name": "sgd", "momentum": 0.0, "nesterov": False}},
    {"optim": {"name": "adamw", "momentum": 0.0}},
    {"comm": {"compression": "powersgd"}, "train": {"precision": "bf16"}},
    {"data": {"test_time_symmetries": True, "vertical_flip": True}},
    {"train": {"backend": "horovod"}, "comm": {"fusion_mib": 0.0, "cycle_time_ms": 2.5, "autotune": True}},
    {"train": {"backend": "horovod"}, "comm": {"compression": "fp16", "timeline": "timeline.json"}},
    {"comm": {"compression": "fp16"}, "train": {"precision": "fp16"}},
    {"batch": {"shards": 8, "global_batch_size": 8, "micro_batch_size": 1}, "optim": {"zero_redundancy": True}},
    {"batch": {"shards": 1}, "train": {"precision": "fp16", "cpu_threads": 2}},
]


@pytest.mark.parametrize(("values", "way_out"), REFUSED)
def test_a_contradiction_is_refused_with_the_way_out(values: Values, way_out: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_config(values)
    assert way_out in str(error.value)
    for section, fields in values.items():
        named = [field for field in fields if f"{section}.{field}" in str(error.value)]
        assert named, f"no field of {section} is named in: {error.value}"


@pytest.mark.parametrize("values", ACCEPTED)
def test_what_does_not_contradict_itself_is_accepted(values: Values) -> None:
    config = build_config(values).model_dump()
    for section, fields in values.items():
        assert fields.items() <= config[section].items()
