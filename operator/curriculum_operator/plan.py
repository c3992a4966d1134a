"""What each phase takes: estimated before it starts, measured once it trains. Pure.

    spec, class, pool, what was measured before ──▶ estimate ──▶ status.plan, and whether it starts
                        reports, the result     ──▶ in its place, while it trains and after

An estimate takes a quarter of a millisecond, and every wake asks for those of all phases: they are
kept by value. A phase is held only for what is certain of the model and the class: numbers that do
not divide, and memory. Time is a guess, and a class without rates has none: neither holds anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from curriculum_api.estimate import hardware, measured
from curriculum_api.estimate import phase as phases
from curriculum_api.estimate import plan as estimates
from curriculum_api.estimate.hardware import GIB
from curriculum_api.estimate.shape import Shape
from curriculum_api.run import PhaseResult
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec, Measurement
from curriculum_api.v1alpha1.curriculum import Model, Phase
from curriculum_api.v1alpha1.rented_pool import RentedPoolSpec
from curriculum_api.v1alpha1.status import PhasePlan, PhaseStatus, Plan
from curriculum_api.wire import State
from curriculum_operator import cost, names, observe
from curriculum_operator.decision import line

KEPT = 8192
"""Estimates that are kept: those of 1,500 curricula of five phases."""

ALL_PHASES = "*"
MEASURED = "measured"
MOST = 1e12
"""A figure beyond this is nonsense, and so is one below its inverse."""

SPEED = "tokens_per_second"
MEMORY = "memory/max_reserved(GiB)"
"""What a trainer's report calls its figures."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A phase before it trains."""

    told: PhasePlan
    hours: float | None = None
    usd: float | None = None
    speed: float | None = None
    """Tokens a second over all accelerators."""

    unaided: float | None = None
    """The same by the class's rates alone, without what was measured before."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """All that an estimate rests on: found by a little of it, compared by the whole."""

    phase: Phase
    model: Model
    kind: AcceleratorClassSpec
    pool: RentedPoolSpec | None
    known: tuple[Measurement, ...]

    def __hash__(self) -> int:
        # Also what a sweep changes: those who share a hash are compared one by one.
        phase = self.phase
        shape = (phase.tokens, phase.nodes, phase.context_length, phase.micro_batch_size)
        swept = (phase.global_batch_tokens, phase.optimizer, phase.data, phase.memory)
        return hash((phase.name, *shape, *swept, self.model.preset, self.known))


def estimate(observed: observe.Observed, phase: Phase) -> Estimate:
    """The estimate of a phase on the classes and pools that are there."""
    world = observed.world
    kind = world.classes.get(phase.accelerator_class)
    if kind is None:
        missing = f'accelerator class "{phase.accelerator_class}" does not exist'
        return Estimate(PhasePlan(name=phase.name, notes=(missing,)))
    pool = world.pools.get(phase.pool) if phase.pool else None
    model = observed.curriculum.spec.model
    return _estimate(
        _Asked(phase, model, kind.spec, pool.spec if pool else None, kind.measurements)
    )


def overridden(observed: observe.Observed, phase: Phase) -> bool:
    """Whether an annotation lets the phase start whatever its plan says."""
    return not {phase.name, ALL_PHASES}.isdisjoint(observed.curriculum.plan_overrides)


def astray(observed: observe.Observed) -> str:
    """That the annotation names what is no phase, to follow a problem; empty where it does not."""
    phases = {phase.name for phase in observed.curriculum.spec.phases}
    lost = sorted(observed.curriculum.plan_overrides - phases - {ALL_PHASES})
    if not lost:
        return ""
    return f'; {names.OVERRIDE_PLAN_ANNOTATION} names "{lost[0]}", which is no phase'


def obstacle(observed: observe.Observed, phase: Phase) -> str | None:
    """Why the phase cannot be trained as it is written, in the plan's words; None where it can."""
    told = estimate(observed, phase).told
    return None if told.feasible else f'phase "{phase.name}": {"; ".join(told.problems)}'


def of(observed: observe.Observed, statuses: Sequence[PhaseStatus]) -> Plan:
    """The plan of all phases, as far as they have come."""
    told: list[PhasePlan] = []
    hours: float | None = 0.0
    usd: float | None = 0.0
    for phase, status in zip(observed.curriculum.spec.phases, statuses, strict=True):
        guess = estimate(observed, phase)
        now = _now(observed, phase, status, guess)
        left = _hours_left(status, now)
        hours = None if hours is None or left is None else hours + left
        usd = _more(usd, left, now)
        told.append(now)
    return Plan(hours_to_come=_figure(hours), usd_to_come=_money(usd), phases=tuple(told))


def taken(observed: observe.Observed, phase: Phase, result: PhaseResult) -> Measurement | None:
    """What an attempt that ended well measures of its class; None where nothing."""
    unaided = estimate(observed, phase).unaided
    if unaided is None:
        return None
    return measured.taken(
        estimates.shape_of(observed.curriculum.spec.model),
        phase.precision,
        estimated=unaided,
        tokens=result.tokens,
        seconds=result.seconds,
        gpus=max(1, result.world_size),
    )


@lru_cache(maxsize=KEPT)
def _estimate(asked: _Asked) -> Estimate:
    try:
        return _made(asked, estimates.shape_of(asked.model))
    except estimates.INCALCULABLE as error:
        return Estimate(PhasePlan(name=asked.phase.name, notes=(line(estimates.why(error)),)))


def _made(asked: _Asked, shape: Shape) -> Estimate:
    phase, kind = asked.phase, asked.kind
    problems = list(phases.refusals(phase, kind, shape))
    if phase.nodes * phases.gpus_per_node(phase, kind) % phase.sequence_parallel:
        return Estimate(PhasePlan(name=phase.name, feasible=False, problems=_lines(problems)))
    problems += estimates.misfit(phase, shape, kind)
    told = PhasePlan(
        name=phase.name,
        feasible=not problems,
        problems=_lines(problems),
        memory_gib=_figure(estimates.memory_of(phase, shape, kind).total / GIB, ".1f"),
        memory_limit_gib=str(kind.memory_gib),
    )
    name = phase.accelerator_class
    pools = {phase.pool: asked.pool} if phase.pool and asked.pool else {}
    site = estimates.Site(classes={name: kind}, pools=pools, measurements={name: asked.known})
    try:
        machine = hardware.of_class(name, kind)
        numbers = estimates.numbers_of(phase, shape, kind, machine, site)
    except estimates.INCALCULABLE as error:
        # What is told of its memory stays: it holds the phase whatever its time.
        return Estimate(told.model_copy(update={"notes": (line(estimates.why(error)),)}))
    speed = unaided = numbers.throughput.tokens_per_second
    known = measured.find(asked.known, shape, phase.precision)
    if known is not None and numbers.basis != estimates.ESTIMATE:
        unaided = speed / float(known.efficiency)
    notes = estimates.too_long(phase, numbers)
    notes += estimates.remarks(phase, shape, machine, numbers)
    usd = numbers.cost.total if numbers.cost else None
    figures = {
        "notes": _lines(notes),
        "basis": numbers.basis[:160],
        "tokens_per_second": _figure(speed),
        "hours": _figure(numbers.hours.likely),
        "hours_least": _figure(numbers.hours.least),
        "hours_most": _figure(numbers.hours.most),
        "usd": _money(usd),
    }
    return Estimate(
        told.model_copy(update=figures),
        hours=numbers.hours.likely,
        usd=usd,
        speed=speed,
        unaided=unaided,
    )


def _now(
    observed: observe.Observed, phase: Phase, status: PhaseStatus, guess: Estimate
) -> PhasePlan:
    """The phase's plan with what was measured of it in the estimate's place."""
    told = guess.told
    if not told.feasible and overridden(observed, phase):
        told = told.model_copy(update={"overridden": True})
    memory = _reported(status, MEMORY)
    if memory is not None:
        told = told.model_copy(update={"memory_gib": _figure(memory, ".1f")})
    if status.state is State.SUCCEEDED:
        return _finished(observed, phase, status, guess, told)
    speed = _reported(status, SPEED)
    if speed is None:
        return told
    hours = phase.tokens / speed / 3600
    usd = _rent(observed, phase, hours)
    least = most = hours
    if guess.speed is not None and guess.hours is not None:
        # Saves and failures take their share of the time as they did in the estimate.
        longer = guess.speed / speed
        hours = guess.hours * longer
        least, most = (
            hours if end is None else float(end) * longer
            for end in (told.hours_least, told.hours_most)
        )
        usd = None if guess.usd is None else guess.usd * longer
    return _with(told, speed, (least, hours, most), usd)


def _finished(
    observed: observe.Observed,
    phase: Phase,
    status: PhaseStatus,
    guess: Estimate,
    told: PhasePlan,
) -> PhasePlan:
    """A phase that is done: what it took, all its attempts together."""
    kind = observed.world.classes.get(phase.accelerator_class)
    result, checkpoint = status.result, status.checkpoint
    if kind is None or not status.gpu_seconds:
        return told
    hours = status.gpu_seconds / 3600 / (phase.nodes * kind.spec.gpus_per_node)
    usd = float(status.usd) if phase.pool else None
    if usd is None and guess.usd is not None and guess.hours:
        usd = guess.usd / guess.hours * hours
    speed = checkpoint.tokens / result.seconds if result and checkpoint and result.seconds else None
    return _with(told, speed, (hours, hours, hours), usd)


def _with(
    told: PhasePlan, speed: float | None, hours: tuple[float, float, float], usd: float | None
) -> PhasePlan:
    """`hours` are the least, the likely and the most."""
    least, likely, most = map(_figure, hours)
    return told.model_copy(
        update={
            "basis": MEASURED,
            "tokens_per_second": _figure(speed) if speed else told.tokens_per_second,
            "hours": likely,
            "hours_least": least,
            "hours_most": most,
            "usd": _money(usd),
        }
    )


def _hours_left(status: PhaseStatus, told: PhasePlan) -> float | None:
    """Hours until the phase is done; None where they cannot be known."""
    if status.state in (State.SUCCEEDED, State.VERIFYING):
        return 0.0
    if status.state is State.FAILED:
        return None
    progress = status.progress
    if progress is not None and progress.estimated_remaining_seconds is not None:
        return progress.estimated_remaining_seconds / 3600
    return None if told.hours is None else float(told.hours)


def _more(usd: float | None, left: float | None, told: PhasePlan) -> float | None:
    """Dollars to come, with those of one more phase."""
    if left == 0.0:
        return usd
    if usd is None or left is None or told.usd is None or not float(told.hours or 0):
        return None
    return usd + float(told.usd) * left / float(told.hours or 0)


def _rent(observed: observe.Observed, phase: Phase, hours: float) -> float | None:
    """Dollars for rented hours; None for owned nodes, which cost what their class tells."""
    kind = observed.world.classes.get(phase.accelerator_class)
    if kind is None or phase.pool is None:
        return None
    seconds = round(hours * 3600) * phase.nodes * kind.spec.gpus_per_node
    return float(cost.usd(observed, phase, seconds))


def _reported(status: PhaseStatus, name: str) -> float | None:
    """A figure of the newest report; None where it is absent or makes no sense."""
    for metric in status.progress.metrics if status.progress else ():
        if metric.name == name:
            try:
                value = float(metric.value)
            except ValueError:
                return None
            return value if 1 / MOST < value < MOST else None
    return None


def _lines(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(line(text) for text in texts[:8])


def _figure(value: float | None, digits: str = ".4g") -> str | None:
    """A number as a status holds it: more digits would change more often, and mean nothing."""
    # A tiny one would be written with more zeros than a status takes, and the status be refused.
    if value is None or not (value == 0 or 1 / MOST < value < MOST):
        return None
    return f"{Decimal(f'{value:{digits}}'):f}"


def _money(value: float | None) -> str | None:
    return _figure(value, ".2f")
