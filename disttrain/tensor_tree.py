"""Tensors in dicts, tuples and lists, as datasets and networks give them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import SUPPORTED_NODES, tree_leaves, tree_map


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """The tensors of a tree, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    found: list[torch.Tensor] = []
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif _is_other_dict(leaf):
            found += [tensor for value in leaf.values() for tensor in tensors_of(value)]
    return found


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], tree: Any) -> Any:
    """The same tree with `function` of each of its tensors."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return function(leaf)
        if not _is_other_dict(leaf):
            return leaf
        made = copy.copy(leaf)  # its class may want more than items to make one
        for key, value in leaf.items():
            made[key] = map_tensors(function, value)
        return made

    return convert(tree) if isinstance(tree, torch.Tensor) else tree_map(convert, tree)


def _is_other_dict(value: Any) -> bool:
    """Whether this is a dict of a class that torch does not look into, as Hugging Face's outputs are."""
    return isinstance(value, dict) and type(value) not in SUPPORTED_NODES


def count_of(tree: Any) -> int:
    """How many samples a batch holds: the first dimension of its first tensor."""
    return len(tree) if isinstance(tree, torch.Tensor) else len(tensors_of(tree)[0])


def rows(tree: Any, part: slice | torch.Tensor) -> Any:
    """The same tree with a part of the samples."""
    return tree[part] if isinstance(tree, torch.Tensor) else map_tensors(lambda one: one[part], tree)


def to_device(tree: Any, device: torch.device, non_blocking: bool = False) -> Any:
    """The same tree with its tensors on a device."""
    if isinstance(tree, torch.Tensor):
        return tree.to(device, non_blocking=non_blocking)
    return map_tensors(lambda one: one.to(device, non_blocking=non_blocking), tree)


def detached(tree: Any) -> Any:
    """The same tree, cut off from the graph."""
    return tree.detach() if isinstance(tree, torch.Tensor) else map_tensors(torch.Tensor.detach, tree)


def overlaps(tensor: torch.Tensor) -> bool:
    """Whether several of its elements are one number in memory, as `expand` makes them: it cannot be written to."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def describe(tree: Any) -> str:
    """`float32 [4, 8]`, `{'x': float32 [4, 8]}`: what a tree holds, for messages."""
    if isinstance(tree, torch.Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')} {list(tree.shape)}"
    if isinstance(tree, dict):
        name = "" if type(tree) is dict else f"{type(tree).__name__} "
        return name + "{" + ", ".join(f"{key!r}: {describe(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list | tuple):
        return f"{type(tree).__name__} of " + ", ".join(map(describe, tree))
    return type(tree).__name__
