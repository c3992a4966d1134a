"""The loss over a whole curriculum as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot
from tests.demo.follow import Step


@dataclass(frozen=True, slots=True)
class Line:
    """The steps of one phase, in order, over all its attempts."""

    phase: str
    subtitle: str
    steps: Sequence[Step]
    preferences: bool
    """DPO's loss starts at ln 2: it gets an axis of its own, on the right."""


def draw(lines: Sequence[Line], path: Path) -> None:
    """Loss over the tokens of all phases, one after the other; each phase shaded and named."""
    figure, text = pyplot.subplots(figsize=(11, 5.5), layout="constrained")
    preferences = text.twinx() if any(line.preferences for line in lines) else None
    start = 0
    for number, line in enumerate(lines):
        colour = f"C{number}"
        tokens = [start + step.tokens for step in line.steps]
        end = tokens[-1] if tokens else start
        text.axvspan(start, end, color=colour, alpha=0.08)
        axes = preferences if preferences is not None and line.preferences else text
        axes.plot(tokens, [step.loss for step in line.steps], color=colour, linewidth=1.5)
        text.annotate(
            f"{line.phase}\n{line.subtitle}",
            ((start + end) / 2, 0.98),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="top",
            fontsize=8,
            color=colour,
        )
        start = end
    text.set_xlim(0, max(start, 1))
    text.set_xlabel("tokens, over all phases")
    text.set_ylabel("cross-entropy per token (nats)")
    text.set_title("Loss over the curriculum")
    text.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:.0f}K")
    for axes in figure.axes:
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.15 * (high - low))
    if preferences is not None:
        preferences.set_ylabel("DPO loss per pair (nats)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def joined(attempts: Sequence[Sequence[Step]]) -> list[Step]:
    """The steps that count: where a later attempt did a step again, its own."""
    last: dict[int, Step] = {}
    for steps in attempts:
        if steps:
            last = {step: each for step, each in last.items() if step < steps[0].step}
        last |= {each.step: each for each in steps}
    return [last[step] for step in sorted(last)]
