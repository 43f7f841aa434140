"""YAML and `section.field=value` overrides -> a checked `Config`, and a `Config` -> YAML."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from disttrain.config.rules import check_rules
from disttrain.config.sections import Config
from disttrain.errors import ConfigError, unknown_name


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-3` is a number, as in YAML 1.2, and a duplicate key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        nodes = [key for key, _ in node.value if not key.tag.endswith(":merge")]
        keys = [self.construct_object(key, deep=True) for key in nodes]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                raise yaml.MarkedYAMLError(None, None, f"duplicate key {key!r}", nodes[at].start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        text = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise ConfigError(f"{where} is not valid YAML: {text}") from None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in the YAML file `path` with `section.field=value` overrides applied, checked as a whole.

    Raises ConfigError: no such file, bad YAML, unknown key, wrong type, or fields that contradict each other.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read the config file {path}: {reason}") from None
    return build_config(_parse_yaml(text, str(path)), overrides, where=str(path))


def build_config(values: Any = None, overrides: Sequence[str] = (), where: str = "config") -> Config:
    """A checked Config from nested mappings (as YAML gives them) and overrides. Raises ConfigError."""
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a mapping of sections ({', '.join(Config.model_fields)}), got {values!r}.")
    tree = copy.deepcopy({key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()})
    for override in overrides:
        _apply_override(tree, override)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(_explain(one) for one in error.errors())) from None
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
    branch[leaf] = _parse_yaml(text, f"override {override!r}") if text else ""


def _explain(error: Any) -> str:
    """One of pydantic's errors in our words: the key and its value, the rule, the nearest valid key."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        owner: type[BaseModel] = Config
        for part in location[:-1]:
            owner = owner.model_fields[part].default.__class__
        what = "field" if len(location) > 1 else "section"
        return unknown_name(f"{what} in {'.'.join(location[:-1]) or 'the config'}:", location[-1], owner.model_fields)
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{key}={error['input']!r} must be a mapping of fields"
    rule = error["msg"][0].lower() + error["msg"][1:]
    hint = ""
    if error["type"] == "literal_error":
        expected = re.findall(r"'([^']+)'", error["msg"])
        hint = ": " + unknown_name("value", str(error["input"]), expected) if expected else ""
    return f"{key}={error['input']!r}: {rule}{hint}"


def render_yaml(config: Config) -> str:
    """The complete config as YAML: every field, in the order of the classes."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, width=110)


def config_differences(old: Config, new: Config) -> list[str]:
    """`section.field: old -> new` for every field in which two configs differ."""
    before, after = old.model_dump(), new.model_dump()
    return [
        f"{section}.{field}: {value!r} -> {after[section][field]!r}"
        for section, fields in before.items()
        for field, value in fields.items()
        if value != after[section][field]
    ]
