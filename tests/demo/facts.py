"""What a finished curriculum came to: result.json, and the table that is printed. Pure."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from tests.demo.follow import Snapshot

from curriculum_api.summary import CheckpointSummary, CurriculumSummary, PhaseSummary
from curriculum_api.wire import State
from curriculum_cli import summary

Fact = dict[str, Any]


def result(snapshot: Snapshot) -> Fact:
    """The facts of every phase, as the cluster tells them."""
    specs = {phase["name"]: phase for phase in snapshot.curriculum["spec"]["phases"]}
    phases = tuple(_phase(specs[each["name"]], each, snapshot) for each in snapshot.phases)
    return CurriculumSummary(state=State(snapshot.state), phases=phases).document()


def _phase(spec: Mapping[str, Any], status: Mapping[str, Any], snapshot: Snapshot) -> PhaseSummary:
    came_to = status.get("result") or {}
    checkpoint = status.get("checkpoint") or {}
    return PhaseSummary(
        name=spec["name"],
        accelerator_class=spec["acceleratorClass"],
        nodes=tuple(nodes(snapshot, spec["name"], status.get("attempts", 0))),
        strategy=spec.get("strategy", "DDP"),
        world_size=came_to.get("worldSize", 0),
        context_length=spec["contextLength"],
        tokens=checkpoint.get("tokens", 0),
        loss_first=_number(came_to.get("lossFirst")),
        loss_last=_number(came_to.get("lossLast")),
        seconds=came_to.get("seconds", 0),
        attempts=status.get("attempts", 0),
        checkpoint=CheckpointSummary(step=checkpoint.get("step"), digest=checkpoint.get("digest")),
    )


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
    return summary.table(CurriculumSummary.model_validate(facts), places=True)


def _number(text: object) -> float | None:
    return float(str(text)) if text else None
