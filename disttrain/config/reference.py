"""What a user reads about the config: the list of all fields, and the JSON schema for editors."""

from __future__ import annotations

import json
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from disttrain.config.sections import Config


def render_reference() -> str:
    """Every section and field with its type, default and docstring, as text for a terminal."""
    schema = Config.model_json_schema()["$defs"]
    lines = []
    for section, info in Config.model_fields.items():
        model: type[BaseModel] = type(info.default)
        lines.append(f"{section}: {' '.join((model.__doc__ or '').split())}")
        for name, field in model.model_fields.items():
            properties = schema[model.__name__]["properties"][name]
            lines.append(f"  {section}.{name} = {_render_default(field)}  ({_render_type(properties)})")
            lines.extend(f"      {line.strip()}" for line in (field.description or "").splitlines())
        lines.append("")
    return "\n".join(lines)


def _render_default(field: FieldInfo) -> str:
    return yaml.safe_dump(field.default, default_flow_style=True).removesuffix("\n...\n").strip()


def _render_type(properties: dict[str, Any]) -> str:
    if "anyOf" in properties:
        return " or ".join(_render_type(one) for one in properties["anyOf"])
    if "enum" in properties:
        return " | ".join(map(str, properties["enum"]))
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {properties[key]:g}" for key, sign in bounds.items() if key in properties]
    return " ".join([properties.get("type", "any"), *limits])


def render_schema() -> str:
    """The JSON schema of a config file (draft 2020-12), for completion and checks in editors."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**dialect, **Config.model_json_schema()}, indent=1) + "\n"
