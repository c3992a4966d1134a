"""`--profile article`: the article's figures, from its inputs, beside the measured ones."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from curriculum_api.estimate import article, hardware
from curriculum_api.estimate.plan import Plan
from curriculum_cli import plan_table
from curriculum_cli.plan_files import Given

SPARK, B200 = "gb10-sm121", "b200-sm100"
HEAD = ("", "article", "its inputs", "measured", "holds")


def text(plans: Mapping[str, Plan], given: Given) -> str:
    """The claims, why those that do not hold do not, and the plan from measured figures."""
    claims = "\n".join(_lines(given, next(iter(plans.values()))))
    return f"{claims}\n\nFrom measured figures:\n\n{plan_table.text(plans)}"


def _lines(given: Given, plan: Plan) -> Iterable[str]:
    classes = {name: hardware.of_class(name, given.classes[name]) for name in (SPARK, B200)}
    found = list(article.claims(classes[SPARK], classes[B200]))
    yield "The article's figures, what its own inputs give, and what measured ones give:"
    yield ""
    found += _long_phases(plan)
    numbered = [replace(claim, what=f"{n:2} {claim.what}") for n, claim in enumerate(found, 1)]
    yield from plan_table.table(
        HEAD,
        [(c.what, c.said, c.reproduced, c.measured, "yes" if c.holds else "no") for c in numbered],
        left=frozenset({0, 4}),
        cut={},
    )
    yield ""
    for number, claim in enumerate(found, 1):
        yield from plan_table.wrapped(f"{number:2} ", claim.why)


def _long_phases(plan: Plan) -> Iterable[article.Claim]:
    """The article's phases 3 and 4, and its total, beside the plan's own."""
    days = [p.numbers.hours.likely / 24 if p.numbers else None for p in plan.phases]
    said = ("14-15 days", "1-2 days", "2-3 days", "1-2 days")
    if len(days) != len(said):
        return
    for place in (2, 3):
        phase, took = plan.phases[place].phase, days[place]
        if took is not None:
            yield article.Claim(
                f"phase {place + 1}: {plan_table.count(phase.tokens)} tokens at"
                f" {plan_table.length(phase.context_length)}",
                said[place],
                "-",
                f"{took:.1f} days",
                True,
                f"on {phase.nodes} rented node; the article gives no tokens for it, this plan does",
            )
    yield article.Claim(
        "all four phases",
        "18-22 days",
        "-",
        f"{plan.hours.likely / 24:,.0f} days",
        False,
        f"between {plan.hours.least / 24:,.0f} and {plan.hours.most / 24:,.0f} with failures",
    )
