"""What a finished curriculum came to: result.json, and the table that is printed. Pure."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from tests.demo.follow import Snapshot

Fact = dict[str, Any]


def result(snapshot: Snapshot) -> Fact:
    """The facts of every phase, as the cluster tells them."""
    specs = {phase["name"]: phase for phase in snapshot.curriculum["spec"]["phases"]}
    return {
        "state": snapshot.state,
        "phases": [_phase(specs[each["name"]], each, snapshot) for each in snapshot.phases],
    }


def _phase(spec: Mapping[str, Any], status: Mapping[str, Any], snapshot: Snapshot) -> Fact:
    came_to = status.get("result") or {}
    checkpoint = status.get("checkpoint") or {}
    return {
        "name": spec["name"],
        "acceleratorClass": spec["acceleratorClass"],
        "nodes": nodes(snapshot, spec["name"], status.get("attempts", 0)),
        "strategy": spec.get("strategy", "DDP"),
        "worldSize": came_to.get("worldSize", 0),
        "contextLength": spec["contextLength"],
        "tokens": checkpoint.get("tokens", 0),
        "lossFirst": _number(came_to.get("lossFirst")),
        "lossLast": _number(came_to.get("lossLast")),
        "seconds": came_to.get("seconds", 0),
        "attempts": status.get("attempts", 0),
        "checkpoint": {"step": checkpoint.get("step"), "digest": checkpoint.get("digest")},
    }


def nodes(snapshot: Snapshot, phase: str, attempt: int) -> list[str]:
    """The nodes on which the pods of an attempt really ran."""
    ran = (pod for pod in snapshot.pods if pod.phase == phase and pod.attempt == attempt)
    return sorted({pod.node for pod in ran if pod.node})


def problems(facts: Fact) -> list[str]:
    """What a demo that ended well must not show."""
    found = []
    if facts["state"] != "Succeeded":
        found.append(f"the curriculum's state is {facts['state']}")
    for phase in facts["phases"]:
        first, last = phase["lossFirst"], phase["lossLast"]
        if first is None or last is None or last >= first:
            found.append(f"phase {phase['name']!r}: the loss went from {first} to {last}")
    return found


def table(facts: Fact) -> Table:
    """One row per phase."""
    shown = Table(title="What the curriculum came to")
    for column in ("phase", "class", "nodes", "strategy"):
        shown.add_column(column)
    for column in ("world", "context", "tokens", "first loss", "last loss", "seconds", "attempts"):
        shown.add_column(column, justify="right")
    shown.add_column("checkpoint")
    for phase in facts["phases"]:
        shown.add_row(
            phase["name"],
            phase["acceleratorClass"],
            " ".join(phase["nodes"]),
            phase["strategy"],
            str(phase["worldSize"]),
            str(phase["contextLength"]),
            f"{phase['tokens']:,}",
            _loss(phase["lossFirst"]),
            _loss(phase["lossLast"]),
            str(phase["seconds"]),
            str(phase["attempts"]),
            str(phase["checkpoint"]["digest"] or "").removeprefix("sha256:")[:12],
        )
    return shown


def _number(text: object) -> float | None:
    return float(str(text)) if text else None


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
