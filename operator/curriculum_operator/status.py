"""The status of a curriculum from what was observed and decided. Pure.

Conditions follow kstatus, so that `helm --wait`, Flux and Argo CD do not wait for weeks: Ready is
True while the curriculum is driven, Stalled is True when nothing goes on without somebody's help,
Succeeded is Unknown until the end. Messages are deterministic: no times, no counters that tick.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from curriculum_api import run
from curriculum_api.v1alpha1.status import (
    Condition,
    CurriculumStatus,
    Metric,
    PhaseStatus,
    Plan,
    Progress,
)
from curriculum_api.wire import Outcome, State
from curriculum_operator import cost, names, observe, plan
from curriculum_operator.decision import Decision, line, stamp

REPORTED = 32
"""Metrics of a report that are kept."""

Make = Callable[[str, bool | None, str, str], Condition]
"""Makes a condition from type, whether it holds, reason and message."""


class Difference(StrEnum):
    """How two statuses differ: progress alone is written less often."""

    NONE = "none"
    PROGRESS = "progress"
    REAL = "real"


def build(observed: observe.Observed, decision: Decision, now: datetime) -> CurriculumStatus:
    """The curriculum's status after `decision`."""
    curriculum = observed.curriculum
    phases = tuple(_phases(observed, decision))
    state = _state(phases, decision)
    current = decision.phase
    live = next((p for p in phases if current and p.name == current.name), None)
    return CurriculumStatus(
        observed_generation=curriculum.generation,
        state=state,
        phase=_place(phases, live),
        progress=_percentage(live),
        eta=_eta(live),
        cost=_cost(observed, phases, now),
        conditions=tuple(_conditions(observed, decision, phases, state, now)),
        plan=plan.of(observed, phases),
        phases=phases,
    )


def difference(old: CurriculumStatus, new: CurriculumStatus) -> Difference:
    """Whether `new` says anything that `old` does not."""
    if old == new:
        return Difference.NONE
    if _without_progress(old) == _without_progress(new):
        return Difference.PROGRESS
    return Difference.REAL


def _phases(observed: observe.Observed, decision: Decision) -> Iterable[PhaseStatus]:
    for phase in observed.curriculum.spec.phases:
        status = observed.curriculum.phase_status(phase.name)
        if decision.phase is not None and decision.phase.name == phase.name:
            message = line(decision.phase.message)
            status = _with_progress(observed, decision.phase)
            status = status.model_copy(update={"message": message})
        yield status


def _with_progress(observed: observe.Observed, status: PhaseStatus) -> PhaseStatus:
    key = observed.attempt_key(status.name, status.attempts)
    beat = observed.world.beats.get(key)
    if beat is None:
        return status
    progress = Progress(
        progress_percentage=beat.percentage,
        estimated_remaining_seconds=beat.remaining_seconds,
        metrics=tuple(Metric(name=n, value=v) for n, v in beat.metrics[:REPORTED]),
        last_updated_time=stamp(beat.received),
    )
    return status.model_copy(update={"progress": progress})


def _state(phases: tuple[PhaseStatus, ...], decision: Decision) -> State:
    if decision.phase is None:
        return State.SUCCEEDED
    current = next(p for p in phases if p.name == decision.phase.name)
    before_all = phases[0].name == current.name
    if current.state is State.PENDING and not before_all:
        return State.WAITING
    if current.state is State.SUCCEEDED and any(p.state is not State.SUCCEEDED for p in phases):
        return State.WAITING  # The next phase is not decided on yet.
    return current.state


def _conditions(
    observed: observe.Observed,
    decision: Decision,
    phases: tuple[PhaseStatus, ...],
    state: State,
    now: datetime,
) -> Iterable[Condition]:
    curriculum = observed.curriculum
    before = {c.type: c for c in curriculum.status.conditions}

    def condition(kind: str, holds: bool | None, reason: str, message: str) -> Condition:
        status = "Unknown" if holds is None else str(holds)
        old = before.get(kind)
        changed = old.last_transition_time if old and old.status == status else stamp(now)
        return Condition.model_validate(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": line(message),
                "lastTransitionTime": changed,
                "observedGeneration": curriculum.generation,
            }
        )

    yield _ready(condition, decision, state)
    yield condition(names.RECONCILING, False, names.OBSERVED, "The newest spec was read")
    if decision.stalled:
        yield condition(names.STALLED, True, *decision.stalled)
    else:
        yield condition(names.STALLED, False, names.PROGRESSING, "")
    pods = any(p.role == names.ROLE_TRAIN and not p.finished for p in observed.pods)
    held = pods or any(not job.finished for job in observed.jobs)
    if state is State.SUSPENDED and not held:
        yield condition(names.SUSPENDED, True, names.RUN_SUSPENDED, "No job is held")
    elif curriculum.spec.suspend and state is not State.SUCCEEDED and state is not State.FAILED:
        yield condition(names.SUSPENDED, False, names.SUSPENDING, "What is under way is ended")
    else:
        yield condition(names.SUSPENDED, False, names.NOT_SUSPENDED, "")
    current = decision.phase
    live = next((p for p in phases if current and p.name == current.name), None)
    yield condition(names.FABRIC_HEALTHY, *_fabric(observed, live))
    done = sum(1 for p in phases if p.state is State.SUCCEEDED)
    tally = f"{done} of {len(phases)} phases"
    if state is State.SUCCEEDED:
        yield condition(names.SUCCEEDED, True, names.CURRICULUM_SUCCEEDED, tally)
    elif state is State.FAILED and decision.stalled:
        yield condition(names.SUCCEEDED, False, names.CURRICULUM_FAILED, decision.stalled[1])
    else:
        yield condition(names.SUCCEEDED, None, names.IN_PROGRESS, tally)


def _fabric(observed: observe.Observed, live: PhaseStatus | None) -> tuple[bool | None, str, str]:
    """What joins the processes, by the newest attempt that said so; kept until the next does."""
    if live is not None and live.outcome is Outcome.FABRIC_ERROR and _ends(observed, live):
        return False, names.FABRIC_FAILED, live.message
    if live is not None and live.end_time is None and live.progress is not None:
        told = {metric.name: metric.value for metric in live.progress.metrics}
        if run.FABRIC_METRIC in told:
            return True, names.FABRIC_PROVEN, f'Phase "{live.name}": {told[run.FABRIC_METRIC]}'
    for before in observed.curriculum.status.conditions:
        if before.type == names.FABRIC_HEALTHY and before.status != "Unknown":
            return before.status == "True", before.reason, before.message
    return None, names.FABRIC_UNPROVEN, "No processes of a phase have met yet"


def _ends(observed: observe.Observed, live: PhaseStatus) -> bool:
    """Whether the attempt ends with this very decision: its message is replaced later."""
    return (
        live.end_time is not None and observed.curriculum.phase_status(live.name).end_time is None
    )


def _ready(condition: Make, decision: Decision, state: State) -> Condition:
    if decision.stalled:
        return condition(names.READY, False, *decision.stalled)
    if decision.waiting:
        return condition(names.READY, True, *decision.waiting)
    return condition(names.READY, True, names.ACCEPTED, str(state))


def _place(phases: tuple[PhaseStatus, ...], live: PhaseStatus | None) -> str:
    if live is None:
        return f"{len(phases)}/{len(phases)}"
    return f"{live.name} {phases.index(live) + 1}/{len(phases)}"


def _percentage(live: PhaseStatus | None) -> str:
    if live is None:
        return "100%"
    if live.progress is None or live.progress.progress_percentage is None:
        return ""
    return f"{live.progress.progress_percentage}%"


def _eta(live: PhaseStatus | None) -> str:
    if live is None or live.progress is None or live.state is not State.RUNNING:
        return ""
    seconds = live.progress.estimated_remaining_seconds
    return "" if seconds is None else duration(seconds)


def duration(seconds: int) -> str:
    """A duration in its two largest units: `3d4h`, `2h5m`, `4m30s`, `12s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return "".join(f"{n}{unit}" for n, unit in parts[:2] if n) or "0s"


def _cost(observed: observe.Observed, phases: Iterable[PhaseStatus], now: datetime) -> str:
    total = Decimal(0)
    specs = {phase.name: phase for phase in observed.curriculum.spec.phases}
    for status in phases:
        total += Decimal(status.usd)
        if status.claim_time is not None and status.end_time is None:
            seconds = cost.gpu_seconds(observed, specs[status.name], status, now)
            total += cost.usd(observed, specs[status.name], seconds)
    return f"${total:.2f}"


def _without_progress(status: CurriculumStatus) -> CurriculumStatus:
    phases = tuple(p.model_copy(update={"progress": None}) for p in status.phases)
    update = {"progress": "", "eta": "", "cost": "", "plan": Plan(), "phases": phases}
    return status.model_copy(update=update)
