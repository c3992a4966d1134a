"""Keeping a node that fell short from use, for a while: what is to be written on it. Pure.

    found wanting ──▶ taint, label, annotation, event ──▶ `until` passes ──▶ all of it removed
                       │ its record is dropped: it is       │
                       ▼ measured before it is used again    ▼
                     an administrator removes the taint: it is over at once

The annotation says why, since when and until when; the taint alone keeps pods away.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from curriculum_api.preflight import diagnose
from curriculum_api.preflight.figures import Suspect
from curriculum_operator import names, observe, record
from curriculum_operator.record import Record


@dataclass(frozen=True, slots=True)
class Finding:
    """A node was found wanting."""

    suspect: Suspect
    since: datetime


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What a node's annotation says."""

    suspect: Suspect
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be written on a node; None removes a label or an annotation."""

    labels: Mapping[str, str | None]
    annotations: Mapping[str, str | None]
    taint: str | None
    """The value of our taint from now on; None where it is to be absent."""

    begins: str = ""
    ends: str = ""
    """What people are told where a quarantine begins or ends."""


def of(node: observe.Node) -> Quarantine | None:
    """The quarantine that the node's annotation tells of, whether it holds or not."""
    told = node.annotations.get(names.QUARANTINE_ANNOTATION)
    if told is None:
        return None
    try:
        document = json.loads(told)
        since, until = document.pop("since"), document.pop("until")
        return Quarantine(
            suspect=Suspect.model_validate(document),
            since=datetime.fromisoformat(since),
            until=datetime.fromisoformat(until),
        )
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        return None


def taint(node: observe.Node) -> str | None:
    """The value of our taint; None where the node has none."""
    return next((t.value for t in node.taints if t.key == names.QUARANTINE_TAINT), None)


def obstacle(node: observe.Node) -> str | None:
    """Why a node in quarantine is not used, for people; None where it is in none."""
    if taint(node) is None:
        return None
    held = of(node)
    if held is None:
        return "is in quarantine"
    return f"is in quarantine until {_minute(held.until)}: {diagnose.line(held.suspect)}"


def change(
    node: observe.Node,
    *,
    finding: Finding | None,
    measured: Record | None,
    seconds: float | None,
    now: datetime,
) -> Change | None:
    """What is to be written on a node; None where it says all already.

    `finding` is the newest there is, `measured` its new record, which a node that is kept away does
    not get, `seconds` how long nodes of its
    class are kept away, None where its class asks for no preflight.
    """
    held, value = of(node), taint(node)
    # one that is kept already is not kept longer for what is found on the way
    kept = held is not None and (finding is None or finding.since <= held.since or value)
    if finding is not None and seconds is not None and not kept:
        until = finding.since + timedelta(seconds=seconds)
        if until > now:
            return _begin(finding, until)
    annotations: dict[str, str | None] = {}
    if measured is not None and value is None:
        written = record.text(measured)
        if node.annotations.get(names.PREFLIGHT_ANNOTATION) != written:
            annotations[names.PREFLIGHT_ANNOTATION] = written
    over = held is None or held.until <= now
    ends = ""
    if over and value is not None:
        ends = f'Node "{node.name}" is out of quarantine; it is measured before it is used'
        value = None
    if over and names.QUARANTINE_ANNOTATION in node.annotations:
        annotations[names.QUARANTINE_ANNOTATION] = None
    labels: dict[str, str | None] = {}
    if value is None and names.QUARANTINED_LABEL in node.labels:
        labels[names.QUARANTINED_LABEL] = None
    if not labels and not annotations and value == taint(node):
        return None
    return Change(labels, annotations, value, ends=ends)


def ends_in(node: observe.Node, now: datetime) -> float | None:
    """Seconds until the node must be looked at again; None where nothing is to end."""
    held = of(node)
    return None if held is None else max(0.0, (held.until - now).total_seconds())


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _begin(finding: Finding, until: datetime) -> Change:
    suspect = finding.suspect
    document = suspect.model_dump(mode="json", by_alias=True, exclude_none=True)
    document |= {
        "since": finding.since.isoformat(timespec="seconds"),
        "until": until.isoformat(timespec="seconds"),
    }
    return Change(
        labels={names.QUARANTINED_LABEL: suspect.check.value},
        annotations={
            names.QUARANTINE_ANNOTATION: json.dumps(document, separators=(",", ":")),
            # what was good enough yesterday is measured again
            names.PREFLIGHT_ANNOTATION: None,
        },
        taint=suspect.check.value,
        begins=f"Node in quarantine until {_minute(until)}: {diagnose.sentence(suspect)}",
    )
