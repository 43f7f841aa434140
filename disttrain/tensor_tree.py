"""Tensors in dicts, tuples and lists, as datasets and networks give them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """The tensors of a tree, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def count_of(tree: Any) -> int:
    """How many samples a batch holds: the first dimension of its first tensor."""
    return len(tree) if isinstance(tree, torch.Tensor) else len(tensors_of(tree)[0])


def rows(tree: Any, part: slice | torch.Tensor) -> Any:
    """The same tree with a part of the samples."""
    return tree[part] if isinstance(tree, torch.Tensor) else tree_map_only(torch.Tensor, lambda one: one[part], tree)


def to_device(tree: Any, device: torch.device, non_blocking: bool = False) -> Any:
    """The same tree with its tensors on a device."""
    if isinstance(tree, torch.Tensor):
        return tree.to(device, non_blocking=non_blocking)
    return tree_map_only(torch.Tensor, lambda one: one.to(device, non_blocking=non_blocking), tree)


def detached(tree: Any) -> Any:
    """The same tree, cut off from the graph."""
    return tree.detach() if isinstance(tree, torch.Tensor) else tree_map_only(torch.Tensor, torch.Tensor.detach, tree)


def describe(tree: Any) -> str:
    """`float32 [4, 8]`, `{'x': float32 [4, 8]}`: what a tree holds, for messages."""
    if isinstance(tree, torch.Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')} {list(tree.shape)}"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key!r}: {describe(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list | tuple):
        return f"{type(tree).__name__} of " + ", ".join(map(describe, tree))
    return type(tree).__name__
