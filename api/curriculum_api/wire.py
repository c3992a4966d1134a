"""What every document on the wire has in common: camelCase keys, no unknown keys, closed sets.

A model here is the source; CustomResourceDefinitions and JSON are printed from it. What a schema
alone cannot say is said beside it, where the model is declared: a `Rule` in CEL, the identity of
a list's items (`ListMap`, `ListSet`), and the `Resource` that a kind is served as.
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from curriculum_api import docstrings

GROUP = "curriculum.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

MAX_INT = 2**53 - 1
"""Largest integer that every JSON reader keeps exactly."""

RULES_KEY = "x-kubernetes-validations"
LIST_TYPE_KEY = "x-kubernetes-list-type"
LIST_KEYS_KEY = "x-kubernetes-list-map-keys"


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule that the API server holds: metadata of an annotated type, or one of `Wire.rules`.

    `expression` sees the value as `self`; where it names `oldSelf` it is asked on updates only.
    `message` names the field in back-quotes and the way out. `at` is the field that is blamed,
    as a JSON path below the value: `.sequenceParallel`.
    """

    expression: str
    message: str
    at: str = ""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return _with_rules(handler(core_schema), (self,))

    def document(self) -> dict[str, str]:
        """This rule as an item of `x-kubernetes-validations`."""
        path = {"fieldPath": self.at} if self.at else {}
        return {"rule": self.expression, "message": self.message, **path}


def _with_rules(schema: JsonSchemaValue, rules: tuple[Rule, ...]) -> JsonSchemaValue:
    if not rules:
        return schema
    return {**schema, RULES_KEY: [*schema.get(RULES_KEY, []), *(r.document() for r in rules)]}


@dataclass(frozen=True, slots=True)
class ListMap:
    """Metadata of a list whose items are told apart by `keys`: appliers own single items."""

    keys: tuple[str, ...]

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(core_schema), LIST_TYPE_KEY: "map", LIST_KEYS_KEY: list(self.keys)}


@dataclass(frozen=True, slots=True)
class ListSet:
    """Metadata of a list of plain values that holds each value once."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(core_schema), LIST_TYPE_KEY: "set"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; a priority above 0 shows it with `-o wide` only."""

    name: str
    path: str
    type: Literal["string", "integer", "date"] = "string"
    description: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Resource:
    """What a kind is served as: its names, its scope, its columns."""

    plural: str
    short_names: tuple[str, ...]
    scope: Literal["Namespaced", "Cluster"]
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()
    """JSON paths of fields that `--field-selector` may name."""


Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
"""An RFC 1035 label, so that what is named after it can be a Service or a Pod."""

Count = Annotated[int, Field(ge=1, le=MAX_INT)]
"""A whole number from 1."""

Tally = Annotated[int, Field(ge=0, le=MAX_INT)]
"""A whole number from 0."""

Decimal = Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$")]
"""A decimal number as text: Kubernetes objects carry no floats."""

Path = Annotated[
    str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$")
]
"""A path below a volume; `..` is refused where it is read."""


class Wire(BaseModel):
    """A document on the wire: frozen, camelCase, unknown keys refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        # programs start without the validators of what they do not read
        defer_build=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """What must hold between the fields of this very model."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema.update(_with_rules(schema, cls.rules))
        cls._describe(schema.get("properties", {}))
        return schema

    @classmethod
    def _describe(cls, properties: dict[str, JsonSchemaValue]) -> None:
        """Give each property the docstring below its attribute."""
        texts = docstrings.of(cls)
        for name, field in cls.model_fields.items():
            key = field.alias or name
            if key in properties and name in texts:
                properties[key] = {"description": texts[name], **properties[key]}


class Reported(Wire):
    """A part of a status: what a newer operator added is ignored, so that an older one can read."""

    model_config = ConfigDict(extra="ignore")


class Objective(StrEnum):
    """What a phase optimises."""

    PRETRAIN = "Pretrain"
    FINE_TUNE = "FineTune"
    CONTEXT_EXTENSION = "ContextExtension"
    DPO = "DPO"


class Precision(StrEnum):
    """The number format of a phase's matrix multiplications."""

    FP32 = "FP32"
    BF16 = "BF16"
    FP8 = "FP8"
    MXFP8 = "MXFP8"
    NVFP4 = "NVFP4"


class Strategy(StrEnum):
    """How weights, gradients and optimizer states are spread over the processes."""

    DDP = "DDP"
    ZERO1 = "ZeRO1"
    ZERO2 = "ZeRO2"
    ZERO3 = "ZeRO3"


class OptimizerName(StrEnum):
    """The optimizer of a phase."""

    ADAMW = "AdamW"
    ADAMW_8BIT = "AdamW8bit"
    ADAMW_4BIT = "AdamW4bit"


class Schedule(StrEnum):
    """How the learning rate goes over a phase's tokens."""

    WSD = "WSD"
    COSINE = "Cosine"
    CONSTANT = "Constant"


class RopeScaling(StrEnum):
    """How rotary positions are stretched beyond the context that a model was trained at."""

    NONE = "None"
    LINEAR = "Linear"
    YARN = "YaRN"


class Packing(StrEnum):
    """How documents become rows of one length."""

    SPLIT = "Split"
    WHOLE = "Whole"


class Backend(StrEnum):
    """The kind of job that a phase becomes."""

    PYTORCHJOB = "PyTorchJob"


class Transport(StrEnum):
    """What carries the data between nodes."""

    RDMA = "RDMA"
    SOCKETS = "Sockets"


class State(StrEnum):
    """Where a phase, or the whole curriculum, stands."""

    PENDING = "Pending"
    WAITING = "Waiting"
    RUNNING = "Running"
    VERIFYING = "Verifying"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "Succeeded"
    PREEMPTED = "Preempted"
    GATE_FAILED = "GateFailed"
    USER_ERROR = "UserError"
    OUT_OF_MEMORY = "OutOfMemory"
    DATA_ERROR = "DataError"
    CHECKPOINT_ERROR = "CheckpointError"
    FABRIC_ERROR = "FabricError"
    NON_FINITE = "NonFinite"
    HUNG = "Hung"
    NODE_LOST = "NodeLost"
    UNKNOWN = "Unknown"


MAX_PROBLEMS = 3
"""Problems that one line holds; the rest are counted."""

_SUBJECT = re.compile(r"^\w+ should")


def problems(error: ValidationError) -> str:
    """One line for people: each field's path, the value it has, and what it must be.

    For example: `spec.phases[0].nodes: must be greater than or equal to 1, not 0`.
    """
    found = _own(error.errors(include_url=False, include_context=False))
    told = "; ".join(_problem(one) for one in found[:MAX_PROBLEMS])
    left = len(found) - MAX_PROBLEMS
    return told if left <= 0 else f"{told}; and {left} more"


def _own(found: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without the lists that pydantic calls too short because it left their bad items out."""
    places = [one["loc"] for one in found]
    above = {place[:length] for place in places for length in range(len(place))}
    return [one for one in found if one["type"] != "too_short" or one["loc"] not in above]


def _problem(one: ErrorDetails) -> str:
    where = _path(one["loc"]) or "document"
    match one["type"]:
        case "missing":
            return f"{where}: required, but absent: add it"
        case "extra_forbidden":
            return f"{where}: no such field: remove it, or correct its name"
        case "too_short" | "too_long":
            told = one["msg"].replace(" after validation", "")
            return f"{where}: {re.sub(_SUBJECT, 'must', told)}"
    what = re.sub(_SUBJECT, "must", " ".join(one["msg"].split()))
    return f"{where}: {what}, not {_quoted(one['input'])}"


def _path(location: tuple[int | str, ...]) -> str:
    """`("spec", "phases", 0, "nodes")` as `spec.phases[0].nodes`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _quoted(value: object) -> str:
    """A value as JSON, cut to what a line can hold."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
