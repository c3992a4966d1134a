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


def draw(lines: Sequence[Line], path: Path) -> None:
    """Loss over the tokens of all phases, one after the other; each phase shaded and named."""
    figure, axes = pyplot.subplots(figsize=(11, 5.5), layout="constrained")
    start = 0
    for number, line in enumerate(lines):
        colour = f"C{number}"
        tokens = [start + step.tokens for step in line.steps]
        end = tokens[-1] if tokens else start
        axes.axvspan(start, end, color=colour, alpha=0.08)
        axes.plot(tokens, [step.loss for step in line.steps], color=colour, linewidth=1.5)
        axes.annotate(
            f"{line.phase}\n{line.subtitle}",
            ((start + end) / 2, 0.98),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="top",
            fontsize=8,
            color=colour,
        )
        start = end
    axes.set_xlim(0, max(start, 1))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    axes.set_xlabel("tokens, over all phases")
    axes.set_ylabel("loss")
    axes.set_title("Loss over the curriculum (the last phase's is DPO's, which starts at ln 2)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:.0f}K")
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
