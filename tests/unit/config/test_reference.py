"""What a user reads about the config is complete and true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from disttrain.config.reference import render_reference, render_schema
from disttrain.config.sections import Config

FIELDS = [
    (section, name, field)
    for section, info in Config.model_fields.items()
    for name, field in type(info.default).model_fields.items()
]


@pytest.mark.parametrize(("section", "name", "field"), FIELDS, ids=[f"{s}.{n}" for s, n, _ in FIELDS])
def test_every_field_has_a_docstring_that_the_reference_shows(section: str, name: str, field: FieldInfo) -> None:
    assert field.description
    assert field.description.rstrip()[-1] in ".)"
    reference = render_reference()
    lines = [line for line in reference.splitlines() if line.startswith(f"  {section}.{name} = ")]
    assert len(lines) == 1
    for line in field.description.splitlines():
        assert line.strip() in reference


def test_the_reference_shows_default_type_and_bounds() -> None:
    reference = render_reference()
    for line in (
        "  optim.lr = 0.001  (number > 0)",
        "  train.epochs = 10  (integer >= 1)",
        "  train.max_steps = null  (integer >= 1 or null)",
        "  model.dropout = 0.0  (number >= 0 < 1)",
        "  optim.name = adamw  (adamw | sgd)",
        "  data.horizontal_flip = false  (boolean)",
    ):
        assert line in reference.splitlines()


@pytest.mark.parametrize("section", Config.model_fields)
def test_every_section_has_a_docstring_that_the_reference_shows(section: str) -> None:
    words = " ".join((type(Config.model_fields[section].default).__doc__ or "").split())
    assert words
    assert f"{section}: {words}" in render_reference().splitlines()


def test_the_schema_has_every_field_with_its_default_and_refuses_others() -> None:
    schema = json.loads(render_schema())
    assert schema["$schema"].startswith("https://json-schema.org/draft/2020-12")
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Config.model_fields)
    for section, info in Config.model_fields.items():
        part = schema["$defs"][type(info.default).__name__]
        assert part["additionalProperties"] is False
        assert set(part["properties"]) == set(type(info.default).model_fields)
        for name, field in type(info.default).model_fields.items():
            shown = part["properties"][name]
            assert shown["default"] == field.default, f"{section}.{name}"
            assert shown["description"] == field.description


def test_the_schema_has_choices_and_bounds() -> None:
    definitions = json.loads(render_schema())["$defs"]
    optim, data = definitions["OptimConfig"]["properties"], definitions["DataConfig"]["properties"]
    assert optim["name"]["enum"] == ["adamw", "sgd"]
    assert optim["lr"]["exclusiveMinimum"] == 0
    assert (optim["momentum"]["minimum"], optim["momentum"]["exclusiveMaximum"]) == (0, 1)
    size = data["image_size"]["anyOf"][0]
    assert (size["minItems"], size["maxItems"], size["items"]["minimum"]) == (2, 2, 1)


def test_the_schema_that_the_shipped_configs_name_is_the_present_one() -> None:
    assert (Path(__file__).parents[3] / "configs/schema.json").read_text(encoding="utf-8") == render_schema()
