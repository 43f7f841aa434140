"""docs/api.md says what the code says."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import disttrain
from disttrain import errors

PAGE = (Path(__file__).resolve().parents[2] / "docs/api.md").read_text(encoding="utf-8")
CALLS = re.findall(r"^```text\n(disttrain[\w.]*\(.*?\))\n```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def call_of(name: str) -> str:
    """A name and its parameters with their defaults, as the page writes them."""
    module, _, member = name.rpartition(".")
    thing: Any = getattr(importlib.import_module(module), member)
    factories = {one.name: one.default_factory for one in fields(thing)} if is_dataclass(thing) else {}
    parts = []
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        default = parameter.default
        if (factory := factories.get(parameter.name, MISSING)) is not MISSING:
            default = factory
        text = f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name
        if default is not parameter.empty:
            text += "=dict()" if default is dict else f"={default!r}"
        parts.append(text)
    return f"{name}({', '.join(parts)})"


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.partition("(")[0])
def test_signatures_are_those_of_the_code(call: str) -> None:
    assert call == call_of(call.partition("(")[0])


def test_every_public_name_of_the_package_is_on_the_page() -> None:
    documented = {call.partition("(")[0] for call in CALLS}
    assert {f"disttrain.{name}" for name in disttrain.__all__} <= documented


def test_every_error_is_on_the_page_with_its_exit_code() -> None:
    kinds = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.DisttrainError)]
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, flags=re.MULTILINE)
    assert dict(rows) == {kind.__name__: str(kind.exit_code) for kind in kinds}
