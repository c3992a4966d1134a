"""A pydantic model's JSON schema as a structural schema, the subset that a CRD may hold.

Everything that a CRD cannot say, or that would leave a CEL rule's cost unbounded, or that would
leave `kubectl explain` without a sentence, is refused with the model and the field at fault.
Nothing is dropped in silence but titles, `additionalProperties: false` (the API server prunes what
it does not know) and defaults that hold nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import BaseModel

from curriculum_api.wire import LIST_KEYS_KEY, LIST_TYPE_KEY, MAX_INT, RULES_KEY

Schema = dict[str, Any]

PRESERVE_KEY: Final = "x-kubernetes-preserve-unknown-fields"

_KNOWN: Final = frozenset(
    {
        *("$defs", "title", "description", "default", "type", "format", "enum", "const"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "pattern"),
        *("items", "prefixItems", "minItems", "maxItems"),
        *("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
        *(RULES_KEY, LIST_TYPE_KEY, LIST_KEYS_KEY),
    }
)
_LOOKAROUNDS: Final = ("(?=", "(?!", "(?<=", "(?<!")


class CannotExpressError(ValueError):
    """A model says what a CRD cannot: `Model.field: why`."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the walk is: the model and field to blame, and the models it is inside of."""

    defs: Mapping[str, Schema]
    model: str
    field: str = ""
    inside: tuple[str, ...] = ()

    def refuse(self, why: str) -> CannotExpressError:
        at = f"{self.model}.{self.field}" if self.field else self.model
        return CannotExpressError(f"{at}: {why}")

    def at(self, field: str) -> "_Place":
        return replace(self, field=field)

    def below(self, suffix: str) -> "_Place":
        return replace(self, field=self.field + suffix)

    def enter(self, model: str) -> "_Place":
        if model in self.inside:
            raise self.refuse(f"{model} is recursive: a CRD holds no references, give it a depth")
        return replace(self, model=model, field="", inside=(*self.inside, model))


def structural(model: type[BaseModel], *, without: frozenset[str] = frozenset()) -> Schema:
    """The model's structural schema, less the top-level fields named in `without`.

    Raises CannotExpressError.
    """
    schema = model.model_json_schema(by_alias=True, mode="validation")
    place = _Place(defs=schema.get("$defs", {}), model=model.__name__)
    if "$ref" in schema:  # pydantic's form of a model that contains itself
        return _convert(schema, place)
    kept = {name: one for name, one in schema["properties"].items() if name not in without}
    return _convert({**schema, "properties": kept}, replace(place, inside=(model.__name__,)))


def _convert(schema: Schema, place: _Place) -> Schema:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        siblings = {key: value for key, value in schema.items() if key not in ("$ref", "$defs")}
        target = place.defs[name]
        inner = place.enter(name) if target.get("type") == "object" else place
        return _convert(_merged(target, siblings), inner)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return _convert(_only_type(schema, union, place), place)
    unknown = sorted(schema.keys() - _KNOWN)
    if unknown:
        raise place.refuse(f"a CRD cannot say {unknown[0]!r}: change the field's type")
    return {**_described(schema), **_typed(schema, place), **_default(schema), **_extras(schema)}


def _merged(target: Schema, siblings: Schema) -> Schema:
    """What a reference points at, with what the field itself says; rules add up."""
    rules = [*target.get(RULES_KEY, []), *siblings.get(RULES_KEY, [])]
    return {**target, **siblings, **({RULES_KEY: rules} if rules else {})}


def _only_type(schema: Schema, union: str, place: _Place) -> Schema:
    """`T | None` as T: absence says None."""
    types = [one for one in schema[union] if one.get("type") != "null"]
    if len(types) != 1:
        raise place.refuse(f"a union of {len(types)} types is not structural: use one object")
    siblings = {key: value for key, value in schema.items() if key != union}
    return _merged(types[0], siblings)


def _described(schema: Schema) -> Schema:
    text = " ".join(schema.get("description", "").split())
    return {"description": text} if text else {}


def _default(schema: Schema) -> Schema:
    default = _something(schema.get("default"))
    return {} if default is None else {"default": default}


def _something(value: Any) -> Any:
    """A default without the parts that hold nothing, so that stored objects stay readable."""
    if isinstance(value, dict):
        kept = {key: _something(one) for key, one in value.items()}
        value = {key: one for key, one in kept.items() if one is not None}
    return None if value in ("", [], {}) else value


def _extras(schema: Schema) -> Schema:
    return {RULES_KEY: schema[RULES_KEY]} if RULES_KEY in schema else {}


def _typed(schema: Schema, place: _Place) -> Schema:
    kind = schema.get("type")
    match kind:
        case "boolean":
            return {"type": kind}
        case "integer":
            return {"type": kind, "format": "int64", **_bounds(schema, place)}
        case "string":
            return {"type": kind, **_string(schema, place)}
        case "array":
            return {"type": kind, **_list(schema, place)}
        case "object":
            return {"type": kind, **_object(schema, place)}
        case "number":
            raise place.refuse("floats are refused, because writers round them: use Decimal text")
        case None:
            raise place.refuse("a value of any type is not structural: use dict[str, Any]")
    raise place.refuse(f"a CRD has no type {kind!r}")


def _bounds(schema: Schema, place: _Place) -> Schema:
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + 1
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - 1
    if low is None or high is None:
        raise place.refuse("an integer needs both bounds: use Count or Tally, or ge and le")
    if low < -MAX_INT or high > MAX_INT:
        raise place.refuse(f"an integer beyond {MAX_INT} loses digits in JSON readers: bound it")
    return {"minimum": low, "maximum": high, **_copied(schema, "multipleOf")}


def _string(schema: Schema, place: _Place) -> Schema:
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if choices is not None:
        return {"enum": choices}
    if "maxLength" not in schema:
        raise place.refuse("a string needs max_length, so that the cost of CEL rules is bounded")
    if any(mark in schema.get("pattern", "") for mark in _LOOKAROUNDS):
        raise place.refuse("the API server's regular expressions have no lookaround")
    return _copied(schema, "format", "minLength", "maxLength", "pattern")


def _list(schema: Schema, place: _Place) -> Schema:
    schema = _evened(schema, place)
    if "maxItems" not in schema:
        raise place.refuse("a list needs max_length, so that the cost of CEL rules is bounded")
    items = _convert(schema["items"], place.below("[]"))
    items.pop("default", None)
    return {
        **_copied(schema, "minItems", "maxItems"),
        "items": items,
        LIST_TYPE_KEY: schema.get(LIST_TYPE_KEY, "atomic"),
        **_keys(schema, items, place),
    }


def _evened(schema: Schema, place: _Place) -> Schema:
    """A tuple of fixed length as a list, where its places have one type."""
    places = schema.get("prefixItems")
    if places is None:
        return schema
    if any(one != places[0] for one in places):
        raise place.refuse("a tuple of several types is not structural: use an object")
    return {**schema, "items": places[0]}


def _keys(schema: Schema, items: Schema, place: _Place) -> Schema:
    keys = schema.get(LIST_KEYS_KEY, [])
    for key in keys:
        field = items.get("properties", {}).get(key)
        if field is None:
            raise place.refuse(f"the items have no {key!r} to tell them apart by")
        if key not in items.get("required", []) and "default" not in field:
            raise place.refuse(f"{key!r} tells the items apart: make it required")
    return {LIST_KEYS_KEY: keys} if keys else {}


def _object(schema: Schema, place: _Place) -> Schema:
    if "properties" in schema:
        fields = schema["properties"].items()
        return {
            "properties": {name: _field(one, place.at(name)) for name, one in fields},
            **_copied(schema, "required"),
        }
    if "maxProperties" not in schema:
        raise place.refuse("a map needs max_length, so that the cost of CEL rules is bounded")
    bounds = _copied(schema, "minProperties", "maxProperties")
    values = schema.get("additionalProperties", True)
    if values is True:
        return {**bounds, PRESERVE_KEY: True}
    return {**bounds, "additionalProperties": _convert(values, place.below("{}"))}


def _field(schema: Schema, place: _Place) -> Schema:
    """A field with its own sentence, or else its model's, which pydantic takes for the same."""
    field = _convert(schema, place)
    if "description" not in field:
        raise place.refuse("no description: put a docstring below the attribute")
    return field


def _copied(schema: Schema, *keys: str) -> Schema:
    return {key: schema[key] for key in keys if key in schema}
