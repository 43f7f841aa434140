"""What a sample of a user's dataset must be, and what is made of it: (input, target), as numbers that torch takes.

What torch would take in another form is brought into one: floats of the network's type, whole numbers as int64, labels
that are words as class numbers. The rest is refused, with the sample's index.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from disttrain.errors import DataError

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64)


@dataclass
class SampleContract:
    """The form in which samples reach the network and the loss."""

    class_names: tuple[str, ...] = ()
    float_dtype: torch.dtype = torch.float32
    """Of the network's weights."""
    class_count: int | None = None
    """Where targets must be class numbers: how many classes there are."""

    def read(self, item: Any, index: int) -> tuple[Any, Any]:
        """A dataset's item as (input, target). Raises DataError."""
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(
                f"sample {index} of the dataset is {_kind(item)}: expected (input, target), a tuple of two. Return "
                "such a pair from __getitem__; several inputs or targets as a tuple or dict of their own."
            )
        inputs = _checked(item[0], f"the input of sample {index}")
        target = self._class_number(item[1], index) if isinstance(item[1], str) else item[1]
        target = _checked(target, f"the target of sample {index}")
        self.check_range(target, index)
        return inputs, target

    def _class_number(self, word: str, index: int) -> int:
        if not self.class_names:
            raise DataError(
                f"the target of sample {index} is the text {word!r}, and the dataset names no classes. Give it an "
                "attribute `classes` with all their names, or return class numbers."
            )
        if word not in self.class_names:
            raise DataError(
                f"the target of sample {index} is {word!r}, which is none of the dataset's classes: "
                f"{', '.join(self.class_names[:20])}. Add it to `classes`, or correct the label."
            )
        return self.class_names.index(word)

    def check_range(self, target: Any, index: int | None) -> None:
        """Raise DataError where a target must be a class number and is none. `index` None: of many samples."""
        if self.class_count is None:
            return
        values = target if isinstance(target, torch.Tensor) else torch.as_tensor(target)
        if values.is_floating_point() or values.numel() == 0:
            return
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self.class_count:
            found = f"{low}" if low == high else f"{low} to {high}"
            which = "targets of the dataset" if index is None else f"the target of sample {index}"
            raise DataError(
                f"{which} hold{'' if index is None else 's'} {found}, out of range: the network has {self.class_count} "
                f"outputs, for classes 0 to {self.class_count - 1}. Correct the labels or the class names. For entries "
                "that are to be ignored give a loss of your own with reduction='none': a mean over the others cannot "
                "be added up over micro-batches and ranks."
            )

    def batch_inputs(self, inputs: Any) -> Any:
        """Collated inputs, floats in the network's type."""
        return self._converted(inputs, self._as_float)

    def batch_targets(self, targets: Any) -> Any:
        """Collated targets: whole numbers as int64, as torch's losses take them; float64, which plain numbers become
        in a batch, as float32 where the network is not of float64 itself."""
        return self._converted(targets, self._as_target)

    def _as_float(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.float_dtype) if tensor.is_floating_point() else tensor

    def _as_target(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and torch.float64 in (tensor.dtype, self.float_dtype):
            return tensor.to(torch.float64 if self.float_dtype == torch.float64 else torch.float32)
        return tensor.to(torch.int64) if tensor.dtype in _WHOLE else tensor

    @staticmethod
    def _converted(tree: Any, convert: Any) -> Any:
        return convert(tree) if isinstance(tree, torch.Tensor) else tree_map_only(torch.Tensor, convert, tree)


def _checked(value: Any, what: str) -> Any:
    """A value that torch's collation takes, else DataError. It is a copy: a dataset may give the same buffer each time,
    and the samples of a batch would all be the last one."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            raise DataError(f"{what} is a sparse tensor ({value.layout}): return it dense, with .to_dense().")
        return value.detach().clone()
    if isinstance(value, np.ndarray | np.generic):
        return _checked_array(value, what)
    if isinstance(value, bool | numbers.Number):
        if isinstance(value, complex | int | float):
            return value
        return float(value)  # type: ignore[arg-type]  # Decimal, Fraction
    if isinstance(value, dict):
        return {key: _checked(one, f"{what}, {key!r},") for key, one in value.items()}
    if isinstance(value, tuple | list):
        if value and all(isinstance(one, int | float) for one in value):
            return torch.tensor(value)
        parts = [_checked(one, f"{what}, part {at},") for at, one in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    way_out = {
        "NoneType": "Every sample needs an input and a target.",
        "str": "Turn it into numbers in __getitem__.",
    }.get(type(value).__name__, "Return a tensor or an array.")
    if type(value).__module__.startswith("PIL"):
        way_out = "Return a tensor, e.g. torchvision.transforms.functional.pil_to_tensor(image)."
    raise DataError(f"{what} is {_kind(value)}: expected numbers, as a tensor, an array or a plain number. {way_out}")


def _checked_array(value: np.ndarray | np.generic, what: str) -> Any:
    if value.dtype.kind not in "biufc":
        raise DataError(f"{what} is an array of {value.dtype}: expected numbers. Convert it in __getitem__.")
    return np.array(value, value.dtype.newbyteorder("="), order="C") if isinstance(value, np.ndarray) else value


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, tuple | list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"of type {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")


def check_class_names(names: Any, what: str) -> tuple[str, ...]:
    """The names that a dataset's attribute `classes` gives; none where it is None. Raises DataError."""
    if names is None:
        return ()
    if isinstance(names, str | bytes | numbers.Number) or not hasattr(names, "__iter__"):
        raise DataError(
            f"{what} has classes={names!r}: expected the names of the classes, in the order of their numbers. Give a "
            "list, e.g. classes = ('left', 'right')."
        )
    if isinstance(names, Mapping | set | frozenset):
        raise DataError(
            f"{what} has classes={names!r}: a {type(names).__name__} does not list the names in the order of their "
            "numbers. Give a list, e.g. sorted(class_to_idx, key=class_to_idx.get) of a mapping from name to number."
        )
    found = tuple(map(str, names))
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise DataError(f"{what} names the class {twice[0]!r} twice: give each class a name of its own.")
    return found


def check_same_classes(train: tuple[str, ...], test: tuple[str, ...], what: str) -> None:
    """Raise DataError where the test data numbers its classes otherwise than the training data."""
    if train and test and test != train:
        raise DataError(
            f"{what}: the classes of the training data are {', '.join(train)}, those of the test data "
            f"{', '.join(test)}: the same number would mean another class. Give both the same list."
        )
