"""Custom resources against their operators' own definitions, as an API server looks at them: unknown fields, types,
defaults and the rules in CEL. What only holds between an old and a new version of an object (`oldSelf`) is left out."""

from __future__ import annotations

import copy
import functools
import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from disttrain.errors import ConfigError
from disttrain.kubernetes.manifests import RUNTIMES, Manifest, at

Schema = dict[str, Any]

_KEPT = (
    "enum", "pattern", "minimum", "maximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems",
    "uniqueItems", "minProperties", "maxProperties", "required", "not", "allOf", "anyOf", "oneOf",
)  # fmt: skip
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def load(folder: Path) -> dict[tuple[str, str], Schema]:
    """Schemas by (apiVersion, kind) of all `*.yaml` and `*.yaml.gz` in a folder. Raises ConfigError where none is."""
    found: dict[tuple[str, str], Schema] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yaml.gz")]):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for one in yaml.load_all(text, Loader=_LOADER):
            if one and one.get("kind") == "CustomResourceDefinition":
                spec = one["spec"]
                for version in spec["versions"]:
                    key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                    found[key] = version["schema"]["openAPIV3Schema"]
    if not found:
        raise ConfigError(f"{folder} holds no CustomResourceDefinition. It is k8s/crds of the repository, or yours.")
    for (group, kind), schema in list(found.items()):
        if kind in RUNTIMES:  # one specification, for a namespace or for the cluster
            for other in RUNTIMES:
                found.setdefault((group, other), schema)
    return found


def errors(schemas: Mapping[tuple[str, str], Schema], manifest: Manifest) -> list[str] | None:
    """What is wrong with a custom resource; None where no definition of it is known."""
    import jsonschema

    key = manifest["apiVersion"], manifest["kind"]
    if key not in schemas:
        return None
    filled = copy.deepcopy(manifest)
    _fill(schemas[key], filled)
    validator = _validator(key, jsonschema, schemas[key])
    found = [f"{'.'.join(map(str, one.absolute_path))}: {one.message[:300]}" for one in validator.iter_errors(filled)]
    return found or [f"{path.lstrip('.')}: {message}" for path, message in _rules(schemas[key], filled)]


_validators: dict[tuple[tuple[str, str], int], Any] = {}


def _validator(key: tuple[str, str], jsonschema: Any, schema: Schema) -> Any:
    if (key, id(schema)) not in _validators:
        _validators[key, id(schema)] = jsonschema.Draft202012Validator(_json_schema(schema, root=True))
    return _validators[key, id(schema)]


def _json_schema(schema: Schema, root: bool = False) -> Schema:
    made = {key: schema[key] for key in _KEPT if key in schema}
    for end in ("Minimum", "Maximum"):  # OpenAPI 3.0 has a flag here, JSON schema the number
        if schema.get(f"exclusive{end}"):
            made[f"exclusive{end}"] = made.pop(end.lower())
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    elif "type" in schema:
        made["type"] = [schema["type"], "null"] if schema.get("nullable") else schema["type"]
    if "properties" in schema:
        made["properties"] = {key: _json_schema(one) for key, one in schema["properties"].items()}
        open_ended = "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"
        if not any(schema.get(key) for key in open_ended):
            made["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _json_schema(schema["additionalProperties"])
    if "items" in schema:
        made["items"] = _json_schema(schema["items"])
    if root:
        made["properties"].update(apiVersion={"type": "string"}, kind={"type": "string"}, metadata={"type": "object"})
    return made


def _fill(schema: Schema, value: Any) -> None:
    """Put defaults in, as the API server does before it validates."""
    if isinstance(value, dict):
        for key, one in schema.get("properties", {}).items():
            if key not in value and "default" in one:
                value[key] = copy.deepcopy(one["default"])
    for inner, part, _ in _children(schema, value, ""):
        _fill(inner, part)


def _children(schema: Schema, value: Any, path: str) -> Iterator[tuple[Schema, Any, str]]:
    if isinstance(value, dict):
        known = schema.get("properties", {})
        for key, part in value.items():
            inner = known.get(key, schema.get("additionalProperties"))
            if isinstance(inner, dict):
                yield inner, part, f"{path}.{key}"
    elif isinstance(value, list) and "items" in schema:
        for index, part in enumerate(value):
            yield schema["items"], part, f"{path}.{index}"


def _rules(schema: Schema, value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    import cel

    for one in schema.get("x-kubernetes-validations") or []:
        rule = one["rule"]
        if "oldSelf" in rule:
            continue
        try:
            holds = cel.evaluate(rule, {"self": value})
        except (ValueError, RuntimeError, TypeError) as error:  # one of Kubernetes' own functions: the server will look
            yield path, f"the rule {rule!r} could not be looked at here: {error}"
            continue
        if holds is not True:
            yield path, str(one.get("message") or rule)
    for inner, part, where in _children(schema, value, path):
        yield from _rules(inner, part, where)


def group_of(manifest: Manifest) -> str:
    """`kubeflow.org`; empty for the core."""
    version: str = at(manifest, "apiVersion")
    return version.rpartition("/")[0]
