"""YAML as a person reads it, and the values of overrides.

PyYAML reads YAML 1.1, in which `010` is 8, `1:30` is 90, `1e3` is a text and `2024-01-01` is a date that no JSON file
takes. Here, as in YAML 1.2, they are 10, a text, 1000 and a text.
"""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from disttrain.errors import ConfigError

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how a file of it begins
_INT, _FLOAT, _TIME = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))
_DIGITS = "[0-9]+(?:_[0-9]+)*"
_WHOLE = re.compile(rf"^(?:[-+]?{_DIGITS}|0x[0-9a-fA-F]+|0o[0-7]+)$")
_REAL = re.compile(
    rf"^(?:[-+]?(?:{_DIGITS}\.?(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a duplicate key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        nodes = [key for key, _ in node.value if not key.tag.endswith(":merge")]
        keys = [self.construct_object(key, deep=True) for key in nodes]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                raise yaml.MarkedYAMLError(None, None, f"duplicate key {key!r}", nodes[at].start_mark)
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


class _Dumper(yaml.SafeDumper):
    """Puts quotes around the texts that `_Loader` would take for something else."""


for _side in (_Loader, _Dumper):
    _side.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if tag not in (_INT, _FLOAT, _TIME)]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _side.add_implicit_resolver(_INT, _WHOLE, list("-+0123456789"))
    _side.add_implicit_resolver(_FLOAT, _REAL, list("-+.0123456789"))
_Loader.add_constructor(_INT, _Loader.construct_whole)


def read_yaml(path: Path, what: str) -> Any:
    """The value that a YAML file stands for: UTF-8, or UTF-16 with its byte order mark. Raises ConfigError, which calls
    the file a `what`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from None
    encoding, name = ("utf-16", "UTF-16") if data.startswith(_UTF_16) else ("utf-8-sig", "UTF-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line, byte = data[: error.start].count(b"\n") + 1, data[error.start]
        raise ConfigError(
            f"the {what} {path} is not text in {name}: line {line} has the byte 0x{byte:02x}. Save it as UTF-8."
        ) from None
    if "\0" in text:
        raise ConfigError(f"the {what} {path} holds NUL characters: it is no text, or UTF-16. Save it as UTF-8.")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The value that a YAML text stands for. Raises ConfigError, which begins with `where`."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise ConfigError(f"{where} is not valid YAML: {reason}. Correct it, or put the value in quotes.") from None


def dump_yaml(value: Any) -> str:
    """YAML that `parse_yaml` reads as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110)


def parse_override(override: str, text: str, annotation: Any) -> Any:
    """The value that `section.field=text` gives to a field of this type (None: any type).

    A field that is a text takes the text as it is, but for `null` where it may be left out. Elsewhere the text is YAML.
    Raises ConfigError.
    """
    if is_text(annotation):
        return None if text == "null" and types.NoneType in get_args(annotation) else text
    if not text:
        return ""
    rest = _behind_value(text)
    if rest and annotation is None and not text.lstrip().startswith(("[", "{", '"', "'")):
        return text
    if rest:
        raise ConfigError(
            f"override {override!r}: {rest!r} stands behind the value. Leave it out, or put quotes around."
        )
    return parse_yaml(text, f"override {override!r}")


def is_text(annotation: Any) -> bool:
    """Whether a field of this type holds a text: `str`, a choice of texts, or either of them or None."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return all(is_text(one) for one in arguments if one is not types.NoneType)
    return annotation is str or (origin is Literal and all(isinstance(one, str) for one in arguments))


def _behind_value(text: str) -> str:
    """What YAML takes for a comment, which on a command line is none."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError):  # `parse_yaml` says so
        return ""
    return text[node.end_mark.index :].strip() if node is not None else text.strip()
