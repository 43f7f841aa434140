"""What tells one dataset from another: written down when a run begins, and compared when it goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from disttrain.data.base import Dataset
from disttrain.data.stream import load_seeded

_COMPARED = 32  # samples of a dataset that is read one by one


def data_identity(dataset: Dataset) -> dict[str, Any]:
    """JSON: `fingerprint`, `counts` per split, `classes`.

    Where the pixels are not hashed as a whole, the fingerprint begins with `files:` (names, sizes and labels of all
    files, and the content of some) or `samples:` (the content of some samples, loaded with fixed seeds).
    """
    return {
        "fingerprint": dataset.fingerprint or _sampled(dataset),
        "counts": {split: len(ids) for split, ids in dataset.splits.items()},
        "classes": list(dataset.class_names),
    }


def identity_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`what: then -> now` for all that differs. Fingerprints of two kinds are not compared."""
    lines = []
    for key in ("train", "val", "test"):
        before, after = then.get("counts", {}).get(key, 0), now["counts"].get(key, 0)
        if "counts" in then and before != after:
            lines.append(f"{key}: {before:,} -> {after:,} samples")
    if "classes" in then and then["classes"] != now["classes"]:
        lines.append(f"classes: {', '.join(then['classes'])} -> {', '.join(now['classes'])}")
    prints = then.get("fingerprint") or "", now["fingerprint"]
    if prints[0] and _kind(prints[0]) == _kind(prints[1]) and prints[0] != prints[1]:
        lines.insert(0, f"fingerprint: {_short(prints[0])} -> {_short(prints[1])}")
    return lines


def _kind(fingerprint: str) -> str:
    return fingerprint.rpartition(":")[0]


def _short(fingerprint: str) -> str:
    kind, colon, digest = fingerprint.rpartition(":")
    return f"{kind}{colon}{digest[:12]}..."


def _sampled(dataset: Dataset) -> str:
    samples: Any = dataset.samples
    digest = hashlib.sha256()
    for split in sorted(dataset.splits):
        _add(digest, [split, dataset.splits[split]])
    marks = getattr(samples, "file_marks", None)
    if marks is not None:
        _add(digest, marks())
    _add(digest, dataset.labels)
    if isinstance(samples, TensorDataset):
        _add(digest, samples.tensors)
        return f"samples:{digest.hexdigest()}"
    for index in np.unique(np.linspace(0, len(samples) - 1, min(_COMPARED, len(samples))).astype(int)):
        found = _digest(load_seeded(dataset, int(index)))
        # A dataset that draws from a generator of its own, or looks at the clock, has no content to compare.
        if found == _digest(load_seeded(dataset, int(index))):
            digest.update(found)
    return f"{'files' if marks is not None else 'samples'}:{digest.hexdigest()}"


def _digest(value: Any) -> bytes:
    digest = hashlib.sha256()
    _add(digest, value)
    return digest.digest()


def _add(digest: Any, value: Any) -> None:
    """Hash a value with its type and shape; of objects that are no data, the type."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        digest.update(f"array {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}\n".encode())
        for key, one in value.items():
            _add(digest, [key, one])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}\n".encode())
        for one in value:
            _add(digest, one)
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        digest.update(f"{type(value).__name__} {value!r}\n".encode("utf-8", "surrogateescape"))
    else:
        digest.update(f"object {type(value).__qualname__}\n".encode())
