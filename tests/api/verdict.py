"""What an API server would say of an object, from the CRD alone and without a server.

It applies defaults, checks the schema, the identity of list items and the CEL rules. It knows no
pruning, no cost budget and no ratcheting: those are seen on a real server.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import cel
import jsonschema

Schema = Mapping[str, Any]


def verdict(
    definition: Mapping[str, Any], new: Mapping[str, Any], old: Mapping[str, Any] | None = None
) -> list[str]:
    """Refusals of creating `new`, or of replacing `old` by it: `path: message`; empty if taken."""
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    value, before = with_defaults(schema, new), None if old is None else with_defaults(schema, old)
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(value), key=str)
    told = [f"{error.json_path}: {error.message}" for error in errors]
    return [*told, *_identities(schema, value, "$"), *_rules(schema, value, before, "$")]


def with_defaults(schema: Schema, value: Any) -> Any:
    """The value as the server stores it: absent fields that have a default are there."""
    if isinstance(value, Mapping) and "properties" in schema:
        given = {
            name: value[name] if name in value else one["default"]
            for name, one in schema["properties"].items()
            if name in value or "default" in one
        }
        fields = schema["properties"]
        return {name: with_defaults(fields[name], one) for name, one in given.items()}
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(schema["items"], one) for one in value]
    return value


def _children(schema: Schema, value: Any, path: str) -> Iterator[tuple[Schema, Any, str, Any]]:
    """Each part of a value with its schema, its path, and what tells it apart."""
    if isinstance(value, Mapping):
        for name, one in schema.get("properties", {}).items():
            if name in value:
                yield one, value[name], f"{path}.{name}", name
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield schema["items"], one, f"{path}[{index}]", _identity(schema, one)


def _identity(schema: Schema, item: Any) -> Any:
    match schema["x-kubernetes-list-type"]:
        case "map":
            return tuple(item.get(key) for key in schema["x-kubernetes-list-map-keys"])
        case "set":
            return item
    return None


def _identities(schema: Schema, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        seen = [_identity(schema, one) for one in value]
        for index, one in enumerate(seen):
            if one is not None and one in seen[:index]:
                yield f"{path}[{index}]: Duplicate value {one!r}"
    for child, part, where, _ in _children(schema, value, path):
        yield from _identities(child, part, where)


def _rules(schema: Schema, value: Any, old: Any, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        if cel.evaluate(rule["rule"], {"self": value, "oldSelf": old}) is not True:
            yield f"{path}{rule.get('fieldPath', '')}: {rule['message']}"
    olds = {name: part for _, part, _, name in _children(schema, old, path) if name is not None}
    for child, part, where, name in _children(schema, value, path):
        yield from _rules(child, part, olds.get(name) if name is not None else None, where)
