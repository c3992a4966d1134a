"""The best of all layouts of a curriculum: cheapest or soonest, within a deadline and a budget.

Every phase is tried on every class that can be had, with every count of nodes, strategy, degree of
sequence parallelism, micro-batch and with blocks recomputed or not; model, data, precision,
optimizer and batch stay as they are, because they change what is learned. Phases follow each other,
so hours and dollars add up, and only choices that no other beats in both can be part of a best
plan: the fronts of the phases are merged one by one, and what is beaten is dropped. That is exact.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from curriculum_api.estimate import hardware as machines
from curriculum_api.estimate import memory, plan, rules
from curriculum_api.estimate import phase as phases
from curriculum_api.estimate.plan import Plan, Site
from curriculum_api.estimate.shape import Shape
from curriculum_api.v1alpha1.curriculum import CurriculumSpec, Phase
from curriculum_api.wire import Strategy

Goal = Literal["cost", "time"]

MICRO_BATCHES = (1, 2, 4, 8)

ROOM = 0.9
"""Share of the memory that a layout may need: estimates of published peaks are up to 12 % off."""

EVERY_COUNT_TO = 32
"""Counts of nodes are tried one by one up to here, and by doubling beyond."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Phases as they could be, and what they then take."""

    hours: float
    usd: float
    """Infinite where a phase's class tells no price."""

    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best plan, and all that no other beats."""

    spec: CurriculumSpec
    plan: Plan
    front: tuple[Choice, ...]
    patch: tuple[dict[str, Any], ...]
    """JSON patch from the curriculum as given."""


def of(
    spec: CurriculumSpec,
    site: Site,
    *,
    goal: Goal,
    deadline_hours: float | None = None,
    budget: float | None = None,
) -> Optimum:
    """The best plan that keeps to deadline and budget.

    Raises:
        ValueError: no layout of a phase fits, or none keeps to both, with the nearest figures; or
            dollars are asked for and a class that can be had tells none.
    """
    if goal == "cost" or budget is not None:
        _check_prices(spec, site)
    found = front(spec, site)
    allowed = [
        choice
        for choice in found
        if (deadline_hours is None or choice.hours <= deadline_hours)
        and (budget is None or choice.usd <= budget)
    ]
    if not allowed:
        soonest, cheapest = found[0], found[-1]
        raise ValueError(
            f"no layout keeps to that: the soonest takes {soonest.hours:,.1f} hours and"
            f" ${dollars(soonest)}, the cheapest {cheapest.hours:,.1f} hours and"
            f" ${dollars(cheapest)}: allow more time or money"
        )
    best = allowed[-1] if goal == "cost" else allowed[0]
    made = spec.model_copy(update={"phases": best.phases})
    return Optimum(
        spec=made,
        plan=plan.of(made, site),
        front=found,
        patch=tuple(_patch(spec.phases, best.phases)),
    )


def _check_prices(spec: CurriculumSpec, site: Site) -> None:
    for name, pool, _ in places(spec, site):
        if pool is None and site.classes[name].ownership is None:
            raise ValueError(
                f'accelerator class "{name}" has no spec.ownership, so what is cheaper cannot be'
                " told: add it, or search for the soonest plan without a budget"
            )


def dollars(choice: Choice) -> str:
    """What a choice costs, as people read it."""
    return "?" if choice.usd == math.inf else f"{choice.usd:,.0f}"


def front(spec: CurriculumSpec, site: Site) -> tuple[Choice, ...]:
    """All choices that no other beats in hours and dollars, soonest first."""
    shape = plan.shape_of(spec.model)
    merged: tuple[Choice, ...] = (Choice(0.0, 0.0, ()),)
    for phase in spec.phases:
        each = unbeaten(choices(phase, spec, shape, site))
        if not each:
            raise ValueError(
                f'phase "{phase.name}": no layout fits on any class that can be had: add a pool'
                " with -f, or a smaller optimizer"
            )
        merged = unbeaten(
            Choice(one.hours + two.hours, one.usd + two.usd, one.phases + two.phases)
            for one in merged
            for two in each
        )
    return merged


def unbeaten(found: Iterable[Choice]) -> tuple[Choice, ...]:
    """What no other beats, soonest and dearest first."""
    kept: list[Choice] = []
    for choice in sorted(found, key=lambda c: (c.hours, c.usd)):
        if not kept or choice.usd < kept[-1].usd:
            kept.append(choice)
    return tuple(kept)


def choices(phase: Phase, spec: CurriculumSpec, shape: Shape, site: Site) -> Iterator[Choice]:
    """Every layout of a phase that fits, with its hours and dollars."""
    for name, pool, most in places(spec, site):
        kind = site.classes[name]
        hardware = machines.of_class(name, kind)
        for nodes in counts(most):
            placed = phase.model_copy(
                update={
                    "accelerator_class": name,
                    "pool": pool,
                    "nodes": nodes,
                    "gpus_per_node": None,
                }
            )
            if any(rules.of_class(placed, name, kind)):
                break
            for tried in _layouts(placed, nodes * kind.gpus_per_node, shape):
                if any(phases.refusals(tried, kind, shape)) or any(rules.of_phase(tried)):
                    continue
                layout = phases.layout(tried, kind)
                need = memory.of(shape, phases.bytes_each(tried), layout, hardware)
                if need.total > hardware.memory * ROOM:
                    continue
                numbers = plan.numbers_of(tried, shape, kind, hardware, site)
                usd = numbers.cost.total if numbers.cost else math.inf
                yield Choice(numbers.hours.likely, usd, (tried,))


def places(spec: CurriculumSpec, site: Site) -> list[tuple[str, str | None, int]]:
    """Class, pool and most nodes of all that can be had.

    Of owned classes there are as many nodes as the curriculum uses at most.
    """
    owned: dict[str, int] = {}
    for phase in spec.phases:
        if phase.pool is None:
            name = phase.accelerator_class
            owned[name] = max(owned.get(name, 0), phase.nodes)
    found: list[tuple[str, str | None, int]] = [
        (name, None, most) for name, most in owned.items() if name in site.classes
    ]
    found += [
        (pool.accelerator_class, name, pool.max_nodes)
        for name, pool in site.pools.items()
        if pool.accelerator_class in site.classes
    ]
    return [place for place in found if site.classes[place[0]].performance is not None]


def counts(most: int) -> list[int]:
    """Counts of nodes to try."""
    few = list(range(1, min(most, EVERY_COUNT_TO) + 1))
    doubled = EVERY_COUNT_TO * 2
    while doubled < most:
        few.append(doubled)
        doubled *= 2
    return few if most <= EVERY_COUNT_TO else [*few, most]


def _layouts(phase: Phase, gpus: int, shape: Shape) -> Iterator[Phase]:
    """Strategies, degrees, micro-batches and recomputation of a placed phase."""
    degrees = [d for d in range(1, shape.heads + 1) if gpus % d == 0 and shape.heads % d == 0]
    batch = phase.global_batch_tokens or phase.context_length
    rows = max(1, batch // phase.context_length)
    for strategy in Strategy if gpus > 1 else (Strategy.DDP,):
        for degree in degrees if strategy is not Strategy.DDP else [1]:
            if phase.context_length % degree:
                continue
            share = rows * degree // gpus
            for size in MICRO_BATCHES:
                if size > 1 and (share < size or share % size):
                    continue
                for again in (False, True):
                    asked = phase.memory.model_copy(
                        update={
                            "activation_checkpointing": again,
                            "offload_activations": again and phase.memory.offload_activations,
                            "offload_optimizer": phase.memory.offload_optimizer
                            and strategy is not Strategy.DDP,
                            "offload_parameters": phase.memory.offload_parameters
                            and strategy is Strategy.ZERO3,
                        }
                    )
                    yield phase.model_copy(
                        update={
                            "strategy": strategy,
                            "sequence_parallel": degree,
                            "micro_batch_size": size,
                            "memory": asked,
                        }
                    )


def _patch(before: Sequence[Phase], after: Sequence[Phase]) -> Iterator[dict[str, Any]]:
    """What a JSON patch says, so that one becomes the other."""
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        given, wanted = (p.model_dump(mode="json", by_alias=True) for p in (old, new))
        for key in given:
            if given[key] == wanted[key]:
                continue
            path = f"/spec/phases/{place}/{key}"
            if wanted[key] is None:
                yield {"op": "remove", "path": path}
            else:
                value = wanted[key]
                if isinstance(value, dict):
                    value = {k: v for k, v in value.items() if v is not None}
                yield {"op": "add", "path": path, "value": value}
