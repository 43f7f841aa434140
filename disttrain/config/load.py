"""YAML and `section.field=value` overrides -> a checked `Config`, and a `Config` -> YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from disttrain.config.explain import explain
from disttrain.config.plain import check_plain, plain_values
from disttrain.config.rules import check_rules
from disttrain.config.sections import Config
from disttrain.config.text import dump_yaml, parse_override, read_yaml
from disttrain.errors import ConfigError
from disttrain.files import user_path


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in the YAML file `path` with `section.field=value` overrides applied, checked as a whole.

    Raises ConfigError: no such file, bad YAML, unknown key, wrong type, or fields that contradict each other.
    """
    path = user_path(path)
    return build_config(read_yaml(path, "config file"), overrides, where=str(path))


def build_config(values: Any = None, overrides: Sequence[str] = (), where: str = "config") -> Config:
    """A checked Config from nested mappings (as YAML gives them) and overrides. Raises ConfigError."""
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a mapping of sections ({', '.join(Config.model_fields)}), got {values!r}.")
    # A section whose fields are all commented out is null in YAML.
    tree = {name: {} if one is None else one for name, one in plain_values(values).items()}
    for override in overrides:
        _apply_override(tree, override)
    for section in ("model", "data"):
        if isinstance(fields := tree.get(section), dict):
            check_plain(fields.get("kwargs"), f"{section}.kwargs")
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(explain(one, Config) for one in error.errors())) from None
    check_rules(config)
    return config


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, field = key.partition(".")
    if not (equals and dot and section and field):
        raise ConfigError(f"override {override!r} is not of the form section.field=value, e.g. train.epochs=5")
    branch = tree.setdefault(section, {})
    *parents, leaf = field.split(".")  # deeper only inside `kwargs`, e.g. model.kwargs.width=64
    for name in parents:
        branch = branch.setdefault(name, {}) if isinstance(branch, dict) else branch
    if not isinstance(branch, dict):
        raise ConfigError(f"override {override!r}: {section} is {branch!r}, not a mapping of fields.")
    branch[leaf] = parse_override(override, text, _annotation(section, field))


def _annotation(section: str, field: str) -> Any:
    """The type of a field; None for what lies inside `kwargs`, and for fields that there are none of."""
    owner = Config.model_fields.get(section)
    found = type(owner.default).model_fields.get(field) if owner else None
    return found.annotation if found else None


def render_yaml(config: Config) -> str:
    """The complete config as YAML: every field, in the order of the classes."""
    return dump_yaml(config.model_dump())


def config_differences(old: Config, new: Config) -> list[str]:
    """`section.field: old -> new` for every field in which two configs differ."""
    before, after = old.model_dump(), new.model_dump()
    return [
        f"{section}.{field}: {value!r} -> {after[section][field]!r}"
        for section, fields in before.items()
        for field, value in fields.items()
        if value != after[section][field]
    ]
