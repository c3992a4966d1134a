"""A model becomes a structural schema, or is refused with the model and the field at fault."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import Field, create_model

from curriculum_api.structural import CannotExpressError, structural
from curriculum_api.wire import ListMap, ListSet, Rule, Wire

Text = Annotated[str, Field(max_length=8)]
Bounded = Annotated[int, Field(ge=0, le=9)]


class Colour(StrEnum):
    """A colour."""

    RED = "Red"
    BLUE = "Blue"


class Item(Wire):
    """An item."""

    name: Text
    """What it is called."""

    size: Bounded | None = None
    """How large it is."""


class Tree(Wire):
    """A tree."""

    children: "Annotated[tuple[Tree, ...], Field(max_length=2)]" = ()
    """The trees below."""


class Half(Wire):
    rules = (Rule("self.low <= self.high", "`low` must not be above `high`: lower it"),)

    low: Bounded
    """The lower end."""

    high: Bounded
    """The upper end."""


def model(annotation: Any, default: Any = ..., description: str | None = "A field.") -> type[Wire]:
    """A model `Thing` with one field, `some_field`."""
    field = Field(default, description=description)
    return create_model("Thing", __base__=Wire, some_field=(annotation, field))


def schema_of(annotation: Any, default: Any = ...) -> dict[str, Any]:
    """What becomes of a field of that type, without its description."""
    field = structural(model(annotation, default))["properties"]["someField"]
    assert field.pop("description") == "A field."
    return dict(field)


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        pytest.param(float, "floats are refused", id="a float"),
        pytest.param(float | None, "floats are refused", id="an optional float"),
        pytest.param(int, "an integer needs both bounds", id="an integer without bounds"),
        pytest.param(
            Annotated[int, Field(ge=0)], "an integer needs both bounds", id="a bound missing"
        ),
        pytest.param(
            Annotated[int, Field(ge=0, le=2**60)], "loses digits", id="an integer beyond 2**53"
        ),
        pytest.param(str, "a string needs max_length", id="a string without a bound"),
        pytest.param(
            Annotated[str, Field(max_length=8, json_schema_extra={"pattern": "(?!a)b"})],
            "no lookaround",
            id="a lookahead",
        ),
        pytest.param(tuple[Text, ...], "a list needs max_length", id="a list without a bound"),
        pytest.param(
            Annotated[tuple[str, ...], Field(max_length=2)], "[]: a string needs", id="its items"
        ),
        pytest.param(dict[str, Text], "a map needs max_length", id="a map without a bound"),
        pytest.param(
            Annotated[dict[str, str], Field(max_length=2)], "{}: a string needs", id="its values"
        ),
        pytest.param(dict[str, Any], "a map needs max_length", id="a document without a bound"),
        pytest.param(
            Annotated[dict[Text, Text], Field(max_length=2)], "'propertyNames'", id="keys bounded"
        ),
        pytest.param(Text | Bounded, "a union of 2 types", id="a union"),
        pytest.param(Text | Bounded | None, "a union of 2 types", id="an optional union"),
        pytest.param(Any, "a value of any type", id="anything"),
        pytest.param(tuple[Text, Bounded], "a tuple of several types", id="a mixed tuple"),
        pytest.param(
            Annotated[frozenset[Text], Field(max_length=2)], "'uniqueItems'", id="a Python set"
        ),
        pytest.param(Literal[1, 2], "an integer needs both bounds", id="an integer enumeration"),
        pytest.param(None, "a CRD has no type 'null'", id="null alone"),
        pytest.param(
            Annotated[tuple[Item, ...], Field(max_length=2), ListMap(("missing",))],
            "the items have no 'missing'",
            id="a key that no item has",
        ),
        pytest.param(
            Annotated[tuple[Item, ...], Field(max_length=2), ListMap(("size",))],
            "'size' tells the items apart: make it required",
            id="a key that is optional",
        ),
    ],
)
def test_a_type_that_a_crd_cannot_hold_is_refused(annotation: Any, why: str) -> None:
    with pytest.raises(CannotExpressError) as refusal:
        structural(model(annotation))
    assert str(refusal.value).startswith("Thing.someField")
    assert why in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_field_without_a_description_is_refused() -> None:
    with pytest.raises(CannotExpressError, match=r"^Thing\.someField: no description: put a doc"):
        structural(model(Bounded, description=None))


def test_a_recursive_model_is_refused() -> None:
    with pytest.raises(CannotExpressError, match=r"^Tree\.children\[\]: Tree is recursive"):
        structural(Tree)


def test_the_field_at_fault_is_named_in_the_model_that_declares_it() -> None:
    inner = create_model("Inner", __base__=Wire, ratio=(float, Field(description="A ratio.")))
    with pytest.raises(CannotExpressError, match=r"^Inner\.ratio: floats are refused"):
        structural(model(Annotated[tuple[inner, ...], Field(max_length=2)]))


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        pytest.param(
            Annotated[int, Field(gt=0, lt=9)],
            {"type": "integer", "format": "int64", "minimum": 1, "maximum": 8},
            id="exclusive bounds become inclusive",
        ),
        pytest.param(Text, {"type": "string", "maxLength": 8}, id="a string"),
        pytest.param(bool, {"type": "boolean"}, id="a truth value"),
        pytest.param(Colour, {"type": "string", "enum": ["Red", "Blue"]}, id="an enumeration"),
        pytest.param(Literal["A"], {"type": "string", "enum": ["A"]}, id="a constant"),
        pytest.param(Optional[Text], {"type": "string", "maxLength": 8}, id="an optional"),  # noqa: UP045 - the old spelling as well
        pytest.param(
            Annotated[tuple[Colour, ...], Field(max_length=2), ListSet()],
            {
                "type": "array",
                "maxItems": 2,
                "items": {"description": "A colour.", "type": "string", "enum": ["Red", "Blue"]},
                "x-kubernetes-list-type": "set",
            },
            id="a set of values",
        ),
        pytest.param(
            tuple[Text, Text],
            {
                "type": "array",
                "minItems": 2,
                "maxItems": 2,
                "items": {"type": "string", "maxLength": 8},
                "x-kubernetes-list-type": "atomic",
            },
            id="a pair of one type",
        ),
        pytest.param(
            Annotated[dict[str, Any], Field(max_length=9)],
            {"type": "object", "maxProperties": 9, "x-kubernetes-preserve-unknown-fields": True},
            id="another project's document",
        ),
        pytest.param(
            Annotated[dict[str, Text], Field(max_length=9)],
            {
                "type": "object",
                "maxProperties": 9,
                "additionalProperties": {"type": "string", "maxLength": 8},
            },
            id="a map",
        ),
        pytest.param(
            Annotated[Bounded, Rule("self != 3", "`it` must not be 3: take 4")],
            {
                "type": "integer",
                "format": "int64",
                "minimum": 0,
                "maximum": 9,
                "x-kubernetes-validations": [
                    {"rule": "self != 3", "message": "`it` must not be 3: take 4"}
                ],
            },
            id="a rule of a field",
        ),
    ],
)
def test_a_type_becomes_its_structural_schema(annotation: Any, expected: dict[str, Any]) -> None:
    assert expected == schema_of(annotation)


def test_a_list_map_names_its_keys() -> None:
    field = schema_of(Annotated[tuple[Item, ...], Field(max_length=2), ListMap(("name",))])
    assert (
        field["x-kubernetes-list-type"],
        field["x-kubernetes-list-map-keys"],
    ) == ("map", ["name"])
    assert field["items"]["required"] == ["name"]
    assert list(field["items"]["properties"]) == ["name", "size"]


def test_a_rule_of_a_model_stands_on_its_object() -> None:
    expected = [
        {"rule": "self.low <= self.high", "message": "`low` must not be above `high`: lower it"}
    ]
    assert expected == schema_of(Half)["x-kubernetes-validations"]
    assert expected == schema_of(Half | None)["x-kubernetes-validations"]


@pytest.mark.parametrize(
    ("annotation", "default", "expected"),
    [
        pytest.param(Bounded, 0, {"default": 0}, id="zero"),
        pytest.param(bool, False, {"default": False}, id="false"),
        pytest.param(Colour, Colour.RED, {"default": "Red"}, id="an enumeration"),
        pytest.param(Item, Item(name="a"), {"default": {"name": "a"}}, id="an object"),
        pytest.param(Text, "", {}, id="an empty string says nothing"),
        pytest.param(Text | None, None, {}, id="none says nothing"),
        pytest.param(Annotated[tuple[Text, ...], Field(max_length=2)], (), {}, id="an empty list"),
    ],
)
def test_a_default_is_kept_where_it_holds_something(
    annotation: Any, default: Any, expected: dict[str, Any]
) -> None:
    field = schema_of(annotation, default)
    assert expected == {key: value for key, value in field.items() if key == "default"}


def test_required_are_the_fields_without_a_default() -> None:
    assert structural(model(Bounded))["required"] == ["someField"]
    assert "required" not in structural(model(Bounded, 1))
