"""A plan as one page that needs nothing else: timeline, memory by part, money, problems."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from curriculum_api.estimate.hardware import GIB
from curriculum_api.estimate.plan import Numbers, PhasePlan, Plan
from curriculum_cli import plan_table

PARTS = {
    "weights": ("weights", "#2f5d8a"),
    "copies": ("BF16 copies", "#5b8db8"),
    "gradients": ("gradients", "#8a4f2f"),
    "master": ("FP32 partition", "#b98a5b"),
    "moments": ("moments", "#6b5b95"),
    "activations": ("activations", "#3f7f5f"),
    "block": ("one block again", "#7fb08f"),
    "logits": ("logits", "#b5a642"),
    "buffers": ("collectives", "#c9736b"),
    "framework": ("framework", "#8f8f8f"),
    "host": ("host", "#4a4a4a"),
}
"""Every part of the memory: its words and its colour."""

COSTS = {
    "hardware": ("owned hardware", "#2f5d8a"),
    "electricity": ("electricity", "#b5a642"),
    "rent": ("rent", "#c9736b"),
    "idle": ("rented and idle", "#8f8f8f"),
}

STEP = {
    "products": ("matrix products", "#2f5d8a"),
    "attention": ("attention", "#3f7f5f"),
    "elementwise": ("elementwise", "#b5a642"),
    "optimizer": ("optimizer", "#6b5b95"),
    "starting": ("starting operations", "#7a9e9f"),
    "communication": ("communication", "#c9736b"),
    "offload": ("offload", "#8f8f8f"),
}

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1f23;--dim:#5d646c;--line:#d9dde1;--page:#fff;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--dim:#9aa3ab;--line:#3a4047;--page:#16191c;
--bad:#ff8a80}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:60rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .5rem}
p{margin:.3rem 0}.dim{color:var(--dim)}.bad{color:var(--bad)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.3rem .5rem;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--dim)}td.l,th.l{text-align:left}.wide{overflow-x:auto}
.bar{position:relative;display:flex;height:1.6rem;background:var(--line);border-radius:3px;
overflow:hidden}.bar i{display:block;height:100%}
.bar b{position:absolute;top:0;bottom:0;width:2px;background:var(--bad)}
.row{display:grid;grid-template-columns:8rem 1fr 8.5rem;gap:.75rem;
align-items:center;margin:.4rem 0}
.row span:last-child{text-align:right;font-variant-numeric:tabular-nums}
.key{display:flex;flex-wrap:wrap;gap:.3rem 1rem;margin:.6rem 0;color:var(--dim);font-size:.9rem}
.key i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;margin-right:.35rem;
vertical-align:-.05rem}
"""

Words = Mapping[str, tuple[str, str]]


def text(plans: Mapping[str, Plan]) -> str:
    """The page."""
    title = escape(", ".join(plans))
    body = "\n".join("\n".join(_curriculum(name, plan)) for name, plan in plans.items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _curriculum(name: str, plan: Plan) -> Iterable[str]:
    hours = plan.hours
    state = "feasible" if plan.feasible else '<span class="bad">not feasible</span>'
    yield f"<h1>{escape(name)}</h1>"
    yield (
        f"<p>{state}: {plan_table.quantity(hours.likely)} hours"
        f" ({plan_table.days(hours.likely)}), between {plan_table.quantity(hours.least)} and"
        f" {plan_table.quantity(hours.most)} with failures; {plan.kwh:,.0f} kWh;"
        f" {escape(plan_table.money(plan))}</p>"
    )
    if plan.breakeven is not None:
        yield f'<p class="dim">{escape(plan_table.breakeven(plan.breakeven))}</p>'
    yield from _problems(plan.phases)
    yield from _table(plan.phases)
    known = [(p, p.numbers) for p in plan.phases if p.numbers]
    yield from _timeline(known, hours.likely)
    yield from _memory(known)
    yield from _split("What a step goes to", STEP, [
        (p.phase.name, n.throughput.seconds.parts(), f"{n.throughput.seconds.total:,.1f} s")
        for p, n in known
    ], largest=None)  # fmt: skip
    priced = [(p.phase.name, n.cost) for p, n in known if n.cost]
    costs = [
        (name, {k: getattr(cost, k) for k in COSTS}, f"${cost.total:,.0f}") for name, cost in priced
    ]
    if priced:
        largest = max(cost.total for _, cost in priced)
        yield from _split("Cost", COSTS, costs, largest=largest)


def _problems(planned: Iterable[PhasePlan]) -> Iterable[str]:
    for one in planned:
        for problem in one.problems:
            yield f'<p class="bad">{escape(one.phase.name)}: {escape(problem)}</p>'
        for remark in one.remarks:
            yield f'<p class="dim">{escape(one.phase.name)}: {escape(remark)}</p>'


def _table(planned: Iterable[PhasePlan]) -> Iterable[str]:
    left = (0, 1, 5)
    rows = [plan_table.HEAD, *(plan_table.row(one) for one in planned)]
    yield '<h2>Phases</h2><div class="wide"><table>'
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = "".join(
            f"<{tag}{' class=l' if place in left else ''}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(row)
        )
        yield f"<tr>{cells}</tr>"
    yield "</table></div>"


def _timeline(known: list[tuple[PhasePlan, Numbers]], whole: float) -> Iterable[str]:
    yield "<h2>Timeline</h2>"
    start = 0.0
    for one, numbers in known:
        before, part = 100 * start / whole, 100 * numbers.hours.likely / whole
        colour = "#c9736b" if one.phase.pool else "#2f5d8a"
        yield _row(
            one.phase.name,
            f'<i style="width:{before:.3f}%"></i>'
            f'<i style="width:{max(part, 0.4):.3f}%;background:{colour}"></i>',
            f"{plan_table.quantity(numbers.hours.likely)} h",
        )
        start += numbers.hours.likely
    yield _key({"owned": ("owned", "#2f5d8a"), "rented": ("rented", "#c9736b")})


def _memory(known: list[tuple[PhasePlan, Numbers]]) -> Iterable[str]:
    yield "<h2>Memory of one GPU</h2>"
    for one, numbers in known:
        scale = max(numbers.limit, numbers.memory.total)
        limit = f'<b style="left:calc({100 * numbers.limit / scale:.3f}% - 2px)"></b>'
        yield _row(
            one.phase.name,
            _bars(PARTS, numbers.memory.parts(), scale) + limit,
            f"{numbers.memory.total / GIB:,.0f} of {numbers.limit / GIB:,.0f} GiB",
        )
    yield _key(PARTS)


def _split(
    title: str,
    words: Words,
    rows: Sequence[tuple[str, Mapping[str, float], str]],
    *,
    largest: float | None,
) -> Iterable[str]:
    """Bars over the largest of all, or each over its own sum."""
    yield f"<h2>{title}</h2>"
    for name, parts, label in rows:
        whole = sum(parts.values()) if largest is None else largest
        yield _row(name, _bars(words, parts, whole or 1.0), label)
    yield _key(words)


def _bars(words: Words, parts: Mapping[str, float], scale: float) -> str:
    return "".join(
        f'<i style="width:{100 * parts[key] / scale:.3f}%;background:{colour}"'
        f' title="{escape(said)}"></i>'
        for key, (said, colour) in words.items()
        if parts[key] > 0
    )


def _row(name: str, bars: str, label: str) -> str:
    return (
        f'<div class="row"><span>{escape(name)}</span><div class="bar">{bars}</div>'
        f"<span>{label}</span></div>"
    )


def _key(words: Words) -> str:
    marks = "".join(
        f'<span><i style="background:{colour}"></i>{escape(said)}</span>'
        for said, colour in words.values()
    )
    return f'<div class="key">{marks}</div>'
