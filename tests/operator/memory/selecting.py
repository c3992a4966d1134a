"""Label and field selectors, as the API server reads them. A selector it refuses is refused."""

import re
from collections.abc import Callable
from typing import Any

from curriculum_operator.cluster import Raw, Refused

Matches = Callable[[Raw], bool]

_REQUIREMENT = re.compile(
    r"""
    (?P<absent>!)?(?P<key>[A-Za-z0-9][-A-Za-z0-9_./]*)
    (?:\s*(?P<compare>==|=|!=)\s*(?P<value>[-A-Za-z0-9_.]*)
    |\s+(?P<set>in|notin)\s+\((?P<values>[^)]*)\))?
    """,
    re.VERBOSE,
)

FIELDS = {
    "Pod": {"spec.nodeName", "status.phase", "spec.restartPolicy"},
    "Job": {"status.successful"},
    "Node": {"spec.unschedulable"},
    "Event": {"involvedObject.name", "involvedObject.uid", "reason", "type"},
    "TrainingCurriculum": {"spec.queueName", "status.state"},
}
"""What may be selected by, beside a name and a namespace."""


def matcher(kind: str, label_selector: str, field_selector: str) -> Matches:
    """Whether an object of `kind` is selected. Raises Refused for what cannot be read."""
    tests = [*_labels(label_selector), *_fields(kind, field_selector)]
    return lambda raw: all(test(raw) for test in tests)


def _labels(selector: str) -> list[Matches]:
    return [_requirement(part.strip()) for part in _parts(selector)]


def _parts(selector: str) -> list[str]:
    # Commas inside parentheses do not part requirements.
    return [part for part in re.split(r",(?![^(]*\))", selector) if part.strip()]


def _requirement(text: str) -> Matches:
    found = _REQUIREMENT.fullmatch(text)
    if found is None or (found["absent"] and (found["compare"] or found["set"])):
        raise Refused(400, f'unable to parse requirement "{text}"')
    key = found["key"]
    if found["absent"]:
        return lambda raw: key not in _of(raw)
    if found["compare"] is None and found["set"] is None:
        return lambda raw: key in _of(raw)
    if found["set"]:
        values = {value.strip() for value in found["values"].split(",")}
        wanted = found["set"] == "in"
        return lambda raw: (_of(raw).get(key) in values) == wanted
    value = found["value"]
    if found["compare"] == "!=":
        return lambda raw: _of(raw).get(key) != value
    return lambda raw: _of(raw).get(key) == value


def _of(raw: Raw) -> dict[str, str]:
    return raw["metadata"].get("labels") or {}


def _fields(kind: str, selector: str) -> list[Matches]:
    tests: list[Matches] = []
    for part in _parts(selector):
        path, operator, value = re.split(r"(!=|==|=)", part, maxsplit=1)
        allowed = {"metadata.name", "metadata.namespace"} | FIELDS.get(kind, set())
        if path not in allowed:
            raise Refused(400, f'field label not supported: "{path}"')
        tests.append(_field(path, value, differs=operator == "!="))
    return tests


def _field(path: str, value: str, *, differs: bool) -> Matches:
    def test(raw: Raw) -> bool:
        found: Any = raw
        for part in path.split("."):
            found = (found or {}).get(part)
        text = "" if found is None else str(found).lower() if found in (True, False) else str(found)
        return (text == value) != differs

    return test
