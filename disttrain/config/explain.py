"""What pydantic says of a mistake, as a user reads it."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from disttrain.errors import unknown_name


def explain(error: Any, root: type[BaseModel], top: str = "section in the config") -> str:
    """One of pydantic's errors about a `root`, in our words: the key and its value, the rule, the nearest valid key.

    `top`: what the outermost keys are."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        owner = root
        for part in location[:-1]:
            owner = owner.model_fields[part].default.__class__
        what = f"field in {'.'.join(location[:-1])}" if len(location) > 1 else top
        return unknown_name(f"{what}:", location[-1], owner.model_fields)
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{key}={error['input']!r} must be a mapping of fields"
    rule = error["msg"][0].lower() + error["msg"][1:]
    hint = ""
    if error["type"] == "literal_error":
        expected = re.findall(r"'([^']+)'", error["msg"])
        hint = ": " + unknown_name("value", str(error["input"]), expected) if expected else ""
    if error["type"] == "string_type" and isinstance(error["input"], (int, float)):
        hint = ". Put quotes around it in the file, to say that it is a text"
    return f"{key}={error['input']!r}: {rule}{hint}"
