"""What was measured of a node, kept on the node itself: an annotation, compact and bounded. Pure.

    {"at": "2026-01-01T12:00:00Z", "boot": "...", "precision": "BF16",
     "figures": {"matmul": 91.2, ...}, "pairs": {"spark-2": {"at": "...", "link": 21.3, ...}}}

A pair lies on both of its nodes and counts only while it does: what is dropped with one node's
record, after a quarantine, is not held against it by its partners.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from curriculum_api.preflight import diagnose, floors
from curriculum_api.preflight.figures import (
    PAIR,
    Check,
    Figures,
    Measured,
    NodeFigures,
    PairFigures,
    RunPreflight,
    Suspect,
    measured_as,
)
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.wire import Precision
from curriculum_operator import names, observe

TOGETHER_SECONDS = 3600
"""Attempts this close together speak of the same links, however soon a class measures again."""

PARTNERS = 8
"""Pairs that a node's record holds; the oldest give way."""


@dataclass(frozen=True, slots=True)
class Met:
    """What was measured with a partner, and when."""

    at: datetime
    figures: Figures


@dataclass(frozen=True, slots=True)
class Record:
    """What was measured of one node."""

    at: datetime
    boot: str
    precision: Precision
    figures: Figures
    pairs: Mapping[str, Met]


def read(node: observe.Node) -> Record | None:
    """The record of a node; None where it has none that can be read."""
    text = node.annotations.get(names.PREFLIGHT_ANNOTATION)
    if text is None:
        return None
    try:
        told = json.loads(text)
        return Record(
            at=datetime.fromisoformat(told["at"]),
            boot=str(told["boot"]),
            precision=Precision(told["precision"]),
            figures=_figures(told["figures"]),
            pairs={
                str(partner): Met(datetime.fromisoformat(met["at"]), _figures(met))
                for partner, met in told["pairs"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def text(record: Record) -> str:
    """The annotation."""
    document = {
        "at": _time(record.at),
        "boot": record.boot,
        "precision": record.precision,
        "figures": _short(record.figures),
        "pairs": {
            partner: {"at": _time(met.at), **_short(met.figures)}
            for partner, met in record.pairs.items()
        },
    }
    return json.dumps(document, separators=(",", ":"))


def taken(name: str, measured: Measured, before: Record | None, now: datetime) -> Record | None:
    """A node's record after a preflight; None where that says nothing of the node."""
    own = next((node for node in measured.nodes if node.node == name), None)
    met = {
        next(node for node in pair.nodes if node != name): Met(now, _finite(pair.figures))
        for pair in measured.pairs
        if name in pair.nodes and len(set(pair.nodes)) == 2
    }
    if own is None:
        return None
    known = {**(before.pairs if before else {}), **met}
    newest = sorted(known, key=lambda partner: (known[partner].at, partner))[-PARTNERS:]
    pairs = {partner: known[partner] for partner in newest}
    return Record(now, own.boot[:64], measured.precision, _finite(own.figures), pairs)


def put_together(
    nodes: Iterable[observe.Node], precision: Precision, max_age: timedelta, now: datetime
) -> Measured:
    """What is known and not too old of these nodes, as if one preflight had measured it."""
    records = {node.name: known for node in nodes if (known := read(node)) is not None}
    booted = {node.name: node.boot_id for node in nodes if node.boot_id}
    young = {
        name: record
        for name, record in records.items()
        if record.precision is precision
        and now - record.at < max_age
        and booted.get(name, record.boot) == record.boot
    }
    pairs = {
        tuple(sorted((name, partner))): met
        for name, record in records.items()
        for partner, met in record.pairs.items()
        if partner in records and name in records[partner].pairs and now - met.at < max_age
    }
    return Measured(
        precision=precision,
        nodes=tuple(
            NodeFigures(node=name, boot=record.boot, figures=record.figures)
            for name, record in young.items()
        ),
        pairs=tuple(
            PairFigures(nodes=(one, other), figures=met.figures)
            for (one, other), met in sorted(pairs.items())
        ),
    )


def to_measure(
    kind: AcceleratorClassSpec,
    precision: Precision,
    gang: Iterable[observe.Node],
    of_class: Iterable[observe.Node],
    now: datetime,
) -> RunPreflight | None:
    """What an attempt on these nodes is to measure; None where nothing is, or it is known.

    It is known where every node of the gang was measured not too long ago and since its last
    boot, has a partner where the gang has several nodes, and all of it is still good enough.
    """
    asked = floors.for_run(kind, precision)
    if asked is None or kind.preflight is None:
        return None
    members = {node.name for node in gang}
    age = timedelta(seconds=kind.preflight.max_age_seconds)
    known = put_together(of_class, measured_as(precision), age, now)
    met = {name for pair in known.pairs for name in pair.nodes}
    measured = {node.node for node in known.nodes}
    if not members or not members <= measured or (len(members) > 1 and not members <= met):
        return asked
    theirs = known.model_copy(
        update={
            "nodes": tuple(node for node in known.nodes if node.node in members),
            "pairs": tuple(pair for pair in known.pairs if members & set(pair.nodes)),
        }
    )
    found = diagnose.diagnose(theirs, asked.floors)
    bad = {s.node for s in found.suspects} | {name for pair in found.pairs for name in pair.nodes}
    return asked if bad & members else None


def suspects(
    kind: AcceleratorClassSpec,
    newest: Measured,
    of_class: Iterable[observe.Node],
    now: datetime,
) -> tuple[Suspect, ...]:
    """Nodes whose links several preflights together show to be bad.

    With two nodes nothing tells which it is; another attempt, with a third, does. What the newest
    preflight shows by itself, its own processes say.
    """
    if kind.preflight is None:
        return ()
    bounds = floors.of_class(kind, newest.precision)
    age = timedelta(seconds=max(TOGETHER_SECONDS, kind.preflight.max_age_seconds))
    known = put_together(of_class, newest.precision, age, now)
    found = diagnose.diagnose(known.model_copy(update={"nodes": ()}), bounds)
    own = {suspect.node for suspect in diagnose.diagnose(newest, bounds).suspects}
    return tuple(suspect for suspect in found.suspects if suspect.node not in own)


def slow_partners(node: observe.Node, bounds: Mapping[Check, float]) -> frozenset[str]:
    """Nodes with which this one was seen to exchange too little: not to be paired if avoidable."""
    known = read(node)
    if known is None:
        return frozenset()
    return frozenset(
        partner
        for partner, met in known.pairs.items()
        if any(diagnose.falls_short(check, met.figures, bounds) for check in PAIR)
    )


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def _figures(told: Mapping[str, Any]) -> Figures:
    return _finite({Check(key): float(value) for key, value in told.items() if key != "at"})


def _finite(figures: Mapping[Check, float]) -> Figures:
    return {check: value for check, value in figures.items() if isfinite(value)}


def _short(figures: Mapping[Check, float]) -> dict[str, float]:
    return {check.value: float(f"{value:.4g}") for check, value in figures.items()}
