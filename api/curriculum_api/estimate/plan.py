"""A whole curriculum before its first step: memory, time, energy and money of every phase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from curriculum_api.estimate import cost, failures, measured, memory, rules, throughput, ways
from curriculum_api.estimate import hardware as machines
from curriculum_api.estimate import phase as phases
from curriculum_api.estimate import shape as shapes
from curriculum_api.estimate.cost import Cost
from curriculum_api.estimate.failures import Checkpoints, Hours
from curriculum_api.estimate.hardware import GIB, Hardware
from curriculum_api.estimate.layout import Layout
from curriculum_api.estimate.memory import Memory
from curriculum_api.estimate.shape import Shape
from curriculum_api.estimate.throughput import Throughput
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec, Measurement
from curriculum_api.v1alpha1.curriculum import CurriculumSpec, Model, Phase
from curriculum_api.v1alpha1.rented_pool import RentedPoolSpec
from curriculum_api.wire import Strategy

INCALCULABLE = (ValueError, ArithmeticError, throughput.Impossible)
"""What an estimate raises where the numbers that it rests on make no sense; `why` says it."""

ESTIMATE = "estimate"
"""The basis of figures that rest on the class's rates alone."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a curriculum may run on, and what is known of its data."""

    classes: Mapping[str, AcceleratorClassSpec]
    pools: Mapping[str, RentedPoolSpec] = field(default_factory=dict)
    documents: Mapping[str, list[int]] = field(default_factory=dict)
    """Lengths of a sample of each source's documents, in tokens, where known."""

    measurements: Mapping[str, Sequence[Measurement]] = field(default_factory=dict)
    """What training was measured to reach before, by class."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The estimates of one phase that can be estimated."""

    layout: Layout
    memory: Memory
    limit: float
    """Bytes that one accelerator has."""

    throughput: Throughput
    checkpoints: Checkpoints
    hours: Hours
    kwh: float
    cost: Cost | None
    """None where no price is known."""

    length: float
    """Tokens over which a token attends."""

    basis: str = ESTIMATE
    """What the speed rests on: the estimate alone, or what was measured before."""

    @property
    def fits(self) -> bool:
        """Whether the peak lies within what there is."""
        return self.memory.total <= self.limit


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """One phase: its numbers, where they can be given, and what stands in its way."""

    phase: Phase
    gpus: int
    numbers: Numbers | None
    problems: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Breakeven:
    """The owned phases against the same on rented nodes."""

    pool: str
    owned_usd: float
    rented_usd: float
    rented_hours: float
    bought_usd: float
    months: float | None
    """Months of such work after which buying has cost less; None where it never does."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A curriculum's plan."""

    phases: tuple[PhasePlan, ...]
    breakeven: Breakeven | None

    @property
    def feasible(self) -> bool:
        """Whether nothing stands in the way of any phase."""
        return not any(planned.problems for planned in self.phases)

    @property
    def hours(self) -> Hours:
        """Hours of all phases, one after the other."""
        known = [p.numbers.hours for p in self.phases if p.numbers]
        return Hours(
            least=sum(h.least for h in known),
            likely=sum(h.likely for h in known),
            most=sum(h.most for h in known),
        )

    @property
    def usd(self) -> float:
        """Dollars of the phases whose price is known."""
        return sum(p.numbers.cost.total for p in self.phases if p.numbers and p.numbers.cost)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """Phases whose price is not known."""
        return tuple(p.phase.name for p in self.phases if not (p.numbers and p.numbers.cost))

    @property
    def kwh(self) -> float:
        """Energy of all phases."""
        return sum(p.numbers.kwh for p in self.phases if p.numbers)


def of(spec: CurriculumSpec, site: Site) -> Plan:
    """The plan of a curriculum.

    Raises:
        ValueError: the model's shape cannot be read, or two phases have one name.
    """
    for refused in rules.of_spec(spec):
        raise ValueError(refused)
    shape = shape_of(spec.model)
    planned = tuple(of_phase(phase, shape, site) for phase in spec.phases)
    return Plan(phases=planned, breakeven=_breakeven(planned, shape, site))


def shape_of(model: Model) -> Shape:
    """The model's shape.

    Raises:
        ValueError: it cannot be read.
    """
    if model.preset is not None:
        return shapes.of_preset(model.preset)
    return shapes.of_config(model.config or {})


def why(error: Exception) -> str:
    """Why nothing could be estimated, in one line."""
    if isinstance(error, ArithmeticError):
        return "the figures of the model, or of its class, are too large or too small to plan with"
    return str(error)


def of_phase(phase: Phase, shape: Shape, site: Site) -> PhasePlan:
    """The plan of one phase."""
    kind = site.classes.get(phase.accelerator_class)
    if kind is None:
        known = ", ".join(sorted(site.classes)) or "none"
        missing = (
            f'accelerator class "{phase.accelerator_class}" is not known; known: {known}; add it'
        )
        return PhasePlan(phase, 0, None, (missing,))
    gpus = phase.nodes * phases.gpus_per_node(phase, kind)
    problems = [
        *rules.of_phase(phase),
        *rules.of_class(phase, phase.accelerator_class, kind),
        *rules.of_pool(phase, dict(site.pools)),
        *phases.refusals(phase, kind, shape),
    ]
    if gpus % phase.sequence_parallel:
        return PhasePlan(phase, gpus, None, tuple(problems))
    problems.extend(misfit(phase, shape, kind))
    try:
        hardware = machines.of_class(phase.accelerator_class, kind)
        numbers = numbers_of(phase, shape, kind, hardware, site)
    except INCALCULABLE as error:
        return PhasePlan(phase, gpus, None, (*problems, why(error)))
    problems.extend(too_long(phase, numbers))
    return PhasePlan(
        phase, gpus, numbers, tuple(problems), tuple(remarks(phase, shape, hardware, numbers))
    )


def numbers_of(
    phase: Phase, shape: Shape, kind: AcceleratorClassSpec, hardware: Hardware, site: Site
) -> Numbers:
    """The estimates of a phase on a class, whether it fits or not.

    What was measured before scales the speed, unless that would exceed what the class can do.
    """
    layout, recipe = phases.layout(phase, kind), phases.bytes_each(phase)
    need = memory.of(shape, recipe, layout, hardware)
    length = phases.attended(phase, site.documents)
    known = measured.find(
        site.measurements.get(phase.accelerator_class, ()), shape, phase.precision
    )
    speed, basis = _speed(phase, shape, layout, hardware, length, known)
    seconds = phase.tokens / speed.tokens_per_second * (1 + phases.reference_share(phase))
    saved = failures.checkpoints(
        shape,
        layout,
        hardware,
        seconds=seconds,
        interval=_interval(phase, speed),
        snapshot=_snapshot(shape, layout, hardware, need),
    )
    hours = failures.hours(saved, seconds=seconds)
    return Numbers(
        layout=layout,
        memory=need,
        limit=hardware.memory,
        throughput=speed,
        checkpoints=saved,
        hours=hours,
        kwh=cost.energy(hardware, nodes=phase.nodes, hours=hours.likely),
        cost=_cost(phase, hardware, site, hours=hours.likely),
        length=length,
        basis=basis,
    )


def _cost(phase: Phase, hardware: Hardware, site: Site, *, hours: float) -> Cost | None:
    """Dollars of a phase; None where its class tells no price, or its pool is not known."""
    if phase.pool is None:
        return cost.owned(hardware, nodes=phase.nodes, hours=hours)
    pool = site.pools.get(phase.pool)
    if pool is None:
        return None
    return cost.rented(hardware, cost.rent_of(pool), nodes=phase.nodes, hours=hours)


def _speed(
    phase: Phase,
    shape: Shape,
    layout: Layout,
    hardware: Hardware,
    length: float,
    known: Measurement | None,
) -> tuple[Throughput, str]:
    """How fast a phase trains, and what that rests on."""
    recipe = phases.bytes_each(phase)

    def at(efficiency: float) -> Throughput:
        return throughput.of(
            shape, recipe, layout, hardware,
            precision=phase.precision, length=length, efficiency=efficiency,
        )  # fmt: skip

    if known is None:
        return at(1.0), ESTIMATE
    try:
        told = f"{known.model}: {known.efficiency} of the estimate"
        return at(float(known.efficiency)), f"measured on {hardware.name}, {told}"
    except throughput.Impossible:
        return at(1.0), ESTIMATE


def _interval(phase: Phase, speed: Throughput) -> float | None:
    """Seconds between the saves that a phase asks for; None where it asks for none."""
    asked = phase.checkpoint
    given = [float(asked.every_seconds)] if asked.every_seconds else []
    if asked.every_steps:
        given.append(asked.every_steps * speed.seconds.total)
    return min(given) if given else None


def _snapshot(shape: Shape, layout: Layout, hardware: Hardware, need: Memory) -> bool:
    """Whether a save can copy to host memory and go on: on unified memory, if there is room."""
    if not hardware.unified:
        return True
    return need.total + memory.snapshot_bytes(shape) <= hardware.memory * layout.gpus_per_node


def memory_of(phase: Phase, shape: Shape, kind: AcceleratorClassSpec) -> Memory:
    """The peak memory of a phase on a class, also on one that cannot be timed."""
    room = machines.room_of(kind)
    return memory.of(shape, phases.bytes_each(phase), phases.layout(phase, kind), room)


def misfit(phase: Phase, shape: Shape, kind: AcceleratorClassSpec) -> list[str]:
    """That it does not fit in memory, with ways out that were computed; empty where it does."""
    need, limit = memory_of(phase, shape, kind).total, machines.room_of(kind).memory
    if need <= limit:
        return []
    told = (
        f"{phase.strategy} with {phase.optimizer.name} needs {need / GIB:,.0f} of"
        f" {limit / GIB:,.0f} GiB"
    )
    found = ways.out(phase, shape, kind)
    if not found:
        return [f"{told}; nothing on {phase.nodes} such nodes fits: take more, or a larger class"]
    return ["; ".join([told, *(f"{way.words} needs {way.gib:,.0f}" for way in found)])]


def too_long(phase: Phase, numbers: Numbers) -> list[str]:
    """That it is likely to take longer than it may."""
    deadline = phase.active_deadline_seconds
    if deadline is None or numbers.hours.likely * 3600 <= deadline:
        return []
    return [
        f"it takes {numbers.hours.likely:,.1f} hours, but activeDeadlineSeconds {deadline} allows"
        f" {deadline / 3600:,.1f}: raise it, or take more nodes"
    ]


def remarks(phase: Phase, shape: Shape, hardware: Hardware, numbers: Numbers) -> list[str]:
    """What is no problem and yet worth knowing."""
    found = []
    if numbers.basis != ESTIMATE:
        found.append(f"tokens/s {numbers.basis}")
    if numbers.cost is None and phase.pool is None:
        found.append(
            f'cost not known: give accelerator class "{hardware.name}" spec.ownership, or the phase'
            " a pool"
        )
    if hardware.unified and phase.memory.offload_optimizer:
        found.append("offloading gains nothing: host and accelerator share one memory")
    if hardware.unified and not _snapshot(shape, numbers.layout, hardware, numbers.memory):
        found.append(
            f"saves hold training for {numbers.checkpoints.held:,.0f} s: a copy in the background"
            f" would take {memory.snapshot_bytes(shape) / GIB:,.0f} GiB of the same memory"
        )
    return found


def _breakeven(planned: tuple[PhasePlan, ...], shape: Shape, site: Site) -> Breakeven | None:
    """The owned phases on one rented node of the first pool whose class is known."""
    owned = [p for p in planned if p.phase.pool is None and p.numbers is not None]
    name = next((n for n, p in site.pools.items() if p.accelerator_class in site.classes), None)
    if not owned or name is None:
        return None
    pool = site.pools[name]
    rented_usd = rented_hours = owned_usd = electricity = bought = hours = 0.0
    for here in owned:
        there = _on_rented(here.phase, shape, site, name, pool)
        if there is None or there.cost is None or not (here.numbers and here.numbers.cost):
            return None
        rented_usd += there.cost.total
        rented_hours += there.hours.likely
        owned_usd += here.numbers.cost.total
        electricity += here.numbers.cost.electricity
        hours += here.numbers.hours.likely
        terms = machines.of_class(
            here.phase.accelerator_class, site.classes[here.phase.accelerator_class]
        ).ownership
        assert terms is not None  # what is owned has its price from there
        bought = max(bought, terms.price * here.phase.nodes)
    if not bought:
        return None
    per_month = cost.HOURS_PER_MONTH / hours
    return Breakeven(
        pool=name,
        owned_usd=owned_usd,
        rented_usd=rented_usd,
        rented_hours=rented_hours,
        bought_usd=bought,
        months=cost.breakeven_months(
            bought=bought,
            owned_monthly=electricity * per_month,
            cloud_monthly=rented_usd * per_month,
        ),
    )


def _on_rented(
    phase: Phase, shape: Shape, site: Site, name: str, pool: RentedPoolSpec
) -> Numbers | None:
    """A phase moved to one node of a pool, fully sharded, in BF16 where it was."""
    kind = site.classes[pool.accelerator_class]
    if kind.gpus_per_node % phase.sequence_parallel:
        return None
    batch = phase.global_batch_tokens
    per_pass = kind.gpus_per_node * phase.context_length
    moved = phase.model_copy(
        update={
            "accelerator_class": pool.accelerator_class,
            "pool": name,
            "nodes": 1,
            "gpus_per_node": None,
            "strategy": Strategy.ZERO3 if phase.strategy is Strategy.DDP else phase.strategy,
            "global_batch_tokens": max(1, round(batch / per_pass)) * per_pass if batch else None,
        }
    )
    try:
        return numbers_of(moved, shape, kind, machines.of_class(pool.accelerator_class, kind), site)
    except INCALCULABLE:
        return None
