"""`--optimize`: the best plan, what else could be chosen, and the patch that adopts it."""

import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping

import yaml

from curriculum_api.estimate import optimize
from curriculum_api.estimate import plan as estimates
from curriculum_api.estimate.optimize import Choice, Optimum
from curriculum_api.estimate.plan import Site
from curriculum_cli import plan_json, plan_table
from curriculum_cli.plan_files import Given

MOST = 12
"""Choices of the front that are shown: all, or evenly spread ones."""

HEAD = ("hours", "USD", "phases: nodes x class, strategy")


def main(given: Given, sites: Mapping[str, Site], asked: Namespace, *, program: str) -> int:
    """Print every curriculum's best plan; 2 where none keeps to the bounds."""
    try:
        sys.stdout.write(_text(given, sites, asked))
    except estimates.INCALCULABLE as error:
        sys.stderr.write(f"{program} plan: {estimates.why(error)}\n")
        return 2
    return 0


def _text(given: Given, sites: Mapping[str, Site], asked: Namespace) -> str:
    found = {
        name: optimize.of(
            spec,
            sites[name],
            goal=asked.optimize,
            deadline_hours=asked.deadline,
            budget=asked.budget,
        )
        for name, spec in given.curricula.items()
    }
    if asked.output == "json":
        documents = [_document(name, best) for name, best in found.items()]
        return json.dumps(documents[0] if len(documents) == 1 else documents, indent=2) + "\n"
    return "\n".join("\n".join(_lines(name, best)) + "\n" for name, best in found.items())


def _document(name: str, best: Optimum) -> dict[str, object]:
    return {
        **plan_json.document(name, best.plan),
        "front": [
            {"hours": c.hours, "usd": None if c.usd == math.inf else c.usd, "phases": _words(c)}
            for c in best.front
        ],
        "patch": list(best.patch),
    }


def _lines(name: str, best: Optimum) -> Iterable[str]:
    yield from plan_table.lines(name, best.plan)
    yield ""
    yield f"no plan beats these {len(best.front)} in both hours and dollars:"
    rows = [
        (plan_table.quantity(c.hours), optimize.dollars(c), _words(c)) for c in _few(best.front)
    ]
    yield from plan_table.table(HEAD, rows, left=frozenset({2}), cut={2: 80})
    yield ""
    if not best.patch:
        yield "the curriculum is the best as it stands"
        return
    yield f"# kubectl patch tcur {name} --type=json --patch-file FILE"
    yield yaml.safe_dump(list(best.patch), sort_keys=False, default_flow_style=None).rstrip()


def _few(front: tuple[Choice, ...]) -> list[Choice]:
    if len(front) <= MOST:
        return list(front)
    return [front[place * (len(front) - 1) // (MOST - 1)] for place in range(MOST)]


def _words(choice: Choice) -> str:
    told = []
    for phase in choice.phases:
        place = phase.pool or phase.accelerator_class
        degree = f"/SP{phase.sequence_parallel}" if phase.sequence_parallel > 1 else ""
        told.append(f"{phase.nodes}x{place} {phase.strategy}{degree}")
    return ", ".join(told)
