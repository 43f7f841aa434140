from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from disttrain.checkpoint.host_buffer import HostBuffer
from disttrain.errors import ConfigError
from disttrain.files import file_sha256


def written(copy: HostBuffer, path: Path) -> dict[str, torch.Tensor]:
    record = copy.write(path)
    assert record.bytes == path.stat().st_size
    assert record.sha256 == file_sha256(path)
    return load_file(path)


def test_every_kind_of_tensor_is_read_back_by_the_safetensors_library(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tensors = {
        str(dtype): torch.randn(3, 5).mul(50).to(dtype)
        for dtype in (
            torch.float64,
            torch.float32,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.int32,
            torch.int16,
        )
    }
    tensors |= {
        "int8": torch.arange(-4, 3, dtype=torch.int8),
        "bool": torch.tensor([True, False, True]),
        "uint8": torch.arange(7, dtype=torch.uint8),
        "float8_e4m3": torch.randn(5).to(torch.float8_e4m3fn),
        "float8_e5m2": torch.randn(5).to(torch.float8_e5m2),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "transposed": torch.randn(4, 6).T,
        "a parameter, ünïcode": torch.nn.Parameter(torch.randn(2)),
    }
    copy = HostBuffer()
    copy.take(tensors)
    loaded = written(copy, tmp_path / "file")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert loaded[name].shape == tensor.shape, name
        assert torch.equal(loaded[name].float(), tensor.detach().float()), name


def test_a_file_larger_than_a_piece_is_whole(tmp_path: Path) -> None:
    tensors = {"large": torch.randn(3_000_001), "small": torch.randn(3)}
    copy = HostBuffer()
    copy.take(tensors)
    loaded = written(copy, tmp_path / "file")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_what_changes_after_the_copy_is_written_as_it_was(tmp_path: Path) -> None:
    tensor = torch.ones(1000)
    copy = HostBuffer()
    copy.take({"w": tensor})
    tensor.zero_()
    assert written(copy, tmp_path / "file")["w"].sum() == 1000


def test_the_memory_is_used_again_also_for_another_layout_that_fits(tmp_path: Path) -> None:
    copy = HostBuffer()
    copy.take({"w": torch.ones(1000)})
    before = copy.address
    copy.take({"w": torch.full((1000,), 2.0)})
    assert copy.address == before
    assert written(copy, tmp_path / "same")["w"].sum() == 2000
    copy.take({"v": torch.full((500,), 3.0), "n": torch.tensor(4)})
    assert copy.address == before
    assert {name: float(one.sum()) for name, one in written(copy, tmp_path / "less").items()} == {"v": 1500, "n": 4}
    copy.take({"w": torch.ones(5000)})
    assert written(copy, tmp_path / "more")["w"].sum() == 5000


def test_a_dtype_that_no_file_can_hold_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"model/phase has dtype torch.complex64"):
        HostBuffer().take({"model/phase": torch.ones(3, dtype=torch.complex64)})
