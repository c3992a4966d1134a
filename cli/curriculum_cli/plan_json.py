"""A plan as JSON; every number is a JSON number, null where it cannot be given."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from curriculum_api.estimate.hardware import GIB
from curriculum_api.estimate.plan import Numbers, PhasePlan, Plan

_UNKNOWN = (
    "memoryGiB", "memoryLimitGiB", "tokensPerSecond", "mfu", "hours", "usd",
)  # fmt: skip


def text(plans: Mapping[str, Plan]) -> str:
    """The document; a list of them where the files hold several curricula."""
    made = [document(name, plan) for name, plan in plans.items()]
    return json.dumps(made[0] if len(made) == 1 else made, indent=2) + "\n"


def document(name: str, plan: Plan) -> dict[str, Any]:
    """One curriculum."""
    hours, found = plan.hours, plan.breakeven
    return {
        "curriculum": name,
        "feasible": plan.feasible,
        "phases": [_phase(planned) for planned in plan.phases],
        "totals": {
            "hours": hours.likely,
            "usd": None if plan.unpriced else plan.usd,
            "unpriced": list(plan.unpriced),
            "hoursLeast": hours.least,
            "hoursMost": hours.most,
            "kWh": plan.kwh,
        },
        "breakeven": None
        if found is None
        else {
            "pool": found.pool,
            "ownedUSD": found.owned_usd,
            "rentedUSD": found.rented_usd,
            "rentedHours": found.rented_hours,
            "boughtUSD": found.bought_usd,
            "months": found.months,
        },
    }


def _phase(planned: PhasePlan) -> dict[str, Any]:
    phase, numbers = planned.phase, planned.numbers
    return {
        "name": phase.name,
        "acceleratorClass": phase.accelerator_class,
        "nodes": phase.nodes,
        "gpus": planned.gpus,
        "tokens": phase.tokens,
        "contextLength": phase.context_length,
        "precision": phase.precision.value,
        "strategy": phase.strategy.value,
        **(dict.fromkeys(_UNKNOWN) if numbers is None else _numbers(numbers)),
        "fits": numbers is not None and numbers.fits,
        "problems": list(planned.problems),
        "remarks": list(planned.remarks),
    }


def _numbers(numbers: Numbers) -> dict[str, Any]:
    seconds, saved, money = numbers.throughput.seconds, numbers.checkpoints, numbers.cost
    return {
        "memoryGiB": numbers.memory.total / GIB,
        "memoryLimitGiB": numbers.limit / GIB,
        "tokensPerSecond": numbers.throughput.tokens_per_second,
        "basis": numbers.basis,
        "mfu": numbers.throughput.mfu,
        "hours": numbers.hours.likely,
        "hoursLeast": numbers.hours.least,
        "hoursMost": numbers.hours.most,
        "usd": money.total if money else None,
        "kWh": numbers.kwh,
        "attendedTokens": numbers.length,
        "memory": {name: size / GIB for name, size in numbers.memory.parts().items()},
        "stepSeconds": seconds.parts(),
        "checkpoint": {
            "gigabytes": saved.size / 1e9,
            "saveSeconds": saved.save,
            "heldSeconds": saved.held,
            "restartSeconds": saved.restart,
            "intervalSeconds": saved.interval,
            "failures": saved.failures,
        },
        "cost": {part.name: getattr(money, part.name) for part in fields(money)} if money else None,
    }
