"""A plan as a table of at most 100 columns."""

from collections.abc import Iterable, Mapping, Sequence

from curriculum_api.estimate.cost import HOURS_PER_MONTH
from curriculum_api.estimate.hardware import GIB
from curriculum_api.estimate.plan import Breakeven, Numbers, PhasePlan, Plan

WIDTH = 100
HEAD = ("phase", "class", "nodes", "tokens", "context", "strategy", "GiB", "tokens/s", "MFU",
        "hours", "USD")  # fmt: skip
_LEFT = frozenset({0, 1, 5})
_CUT: Mapping[int, int] = {0: 14, 1: 13}


def text(plans: Mapping[str, Plan]) -> str:
    """Every curriculum's table, one below the other."""
    return "\n".join("\n".join(lines(name, plan)) + "\n" for name, plan in plans.items())


def lines(name: str, plan: Plan) -> Iterable[str]:
    """One curriculum: its phases, what stands in their way, its sums."""
    yield f"{name}: {'feasible' if plan.feasible else 'NOT FEASIBLE'}"
    yield ""
    yield from table(HEAD, [row(planned) for planned in plan.phases])
    yield from _notes(plan)
    yield ""
    hours = plan.hours
    yield from wrapped(
        "total     ",
        f"{quantity(hours.likely)} hours ({days(hours.likely)}), between"
        f" {quantity(hours.least)} and {quantity(hours.most)} with failures;"
        f" {plan.kwh:,.0f} kWh; {money(plan)}",
    )
    yield from _dominant(plan)
    if plan.breakeven is not None:
        yield from wrapped("breakeven ", breakeven(plan.breakeven))


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: frozenset[int] = _LEFT,
    cut: Mapping[int, int] = _CUT,
) -> Iterable[str]:
    """Columns as wide as they need, those in `left` to the left; `cut` limits some."""
    cells = [
        [
            cell if len(cell) <= (limit := cut.get(place, WIDTH)) else cell[: limit - 1] + "…"
            for place, cell in enumerate(row)
        ]
        for row in (head, *rows)
    ]
    widths = [max(len(row[place]) for row in cells) for place in range(len(head))]
    for row in cells:
        padded = (
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield " ".join(padded).rstrip()


def wrapped(label: str, words: str) -> Iterable[str]:
    """Words below a label, cut between them to the table's width."""
    line, space = label, " " * len(label)
    for word in words.split():
        if len(line) + 1 + len(word) > WIDTH and line.strip() and line != space:
            yield line.rstrip()
            line = space
        line += word + " "
    yield line.rstrip()


def breakeven(found: Breakeven) -> str:
    """The owned phases against renting, in words."""
    told = (
        f"owned phases cost ${found.owned_usd:,.0f} here, and ${found.rented_usd:,.0f} in"
        f" {quantity(found.rented_hours)} hours on one node of {found.pool}"
    )
    if found.months is None:
        return f"{told}: their electricity alone costs more, so buying never pays"
    return (
        f"{told}; ${found.bought_usd:,.0f} of nodes pay for themselves in {found.months:,.1f}"
        " months of such work"
    )


def count(value: float) -> str:
    """A number of tokens in few characters: 141B, 512K; lengths of context by 1,024."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def length(tokens: int) -> str:
    """A context length: 8K, 1M."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "K")):
        if tokens >= size and tokens % size == 0:
            return f"{tokens // size}{unit}"
    return str(tokens)


def quantity(value: float) -> str:
    """Three figures of a small number, no fractions of a large one."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def days(hours: float) -> str:
    """Hours as days, where they are many."""
    return (
        f"{hours / 24:,.1f} days"
        if hours < HOURS_PER_MONTH * 3
        else (f"{hours / HOURS_PER_MONTH:,.1f} months")
    )


def row(planned: PhasePlan) -> Sequence[str]:
    """One phase's cells."""
    phase, numbers = planned.phase, planned.numbers
    fixed = (
        phase.name,
        phase.accelerator_class,
        str(phase.nodes),
        count(phase.tokens),
        length(phase.context_length),
        phase.strategy + (f"/SP{phase.sequence_parallel}" if phase.sequence_parallel > 1 else ""),
    )
    if numbers is None:
        return (*fixed, "?", "?", "?", "?", "?")
    mark = "" if numbers.fits else "!"
    return (
        *fixed,
        f"{mark}{numbers.memory.total / GIB:,.0f}/{numbers.limit / GIB:,.0f}",
        f"{numbers.throughput.tokens_per_second:,.0f}",
        f"{numbers.throughput.mfu:.0%}",
        quantity(numbers.hours.likely),
        f"{numbers.cost.total:,.0f}" if numbers.cost else "?",
    )


def money(plan: Plan) -> str:
    """Dollars of all phases, or of those whose price is known, and which are not among them."""
    if not plan.unpriced:
        return f"${plan.usd:,.0f}"
    if len(plan.unpriced) == len(plan.phases):
        return "no price known"
    return f"${plan.usd:,.0f} without {', '.join(plan.unpriced)}"


def _notes(plan: Plan) -> Iterable[str]:
    said = False
    for planned in plan.phases:
        for kind, notes in (("problem", planned.problems), ("note", planned.remarks)):
            for note in notes:
                if not said:
                    yield ""
                said = True
                yield from wrapped(f"{kind:8}  {planned.phase.name}: ", note)


def _dominant(plan: Plan) -> Iterable[str]:
    known = [(p.phase.name, p.numbers) for p in plan.phases if p.numbers]
    if not known:
        return
    by_time = max(known, key=lambda pair: pair[1].hours.likely)
    told = (
        f"dominated by {by_time[0]}: {_share(by_time[1].hours.likely, plan.hours.likely)} of the"
        f" time, most of it {_what(by_time[1])}"
    )
    if not plan.unpriced:
        usd, name = max((numbers.cost.total, name) for name, numbers in known if numbers.cost)
        told += f"; {name}: {_share(usd, plan.usd)} of the money"
    yield told


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def _what(numbers: Numbers) -> str:
    names = {
        "products": "matrix products",
        "elementwise": "elementwise work",
        "optimizer": "the optimizer",
        "starting": "starting operations",
    }
    found = numbers.throughput.seconds.dominant()
    return names.get(found, found)
