"""Bytes that one accelerator moves in an optimizer step, and the seconds that they take.

Ring collectives of n ranks move (n - 1) / n of a buffer in each of their halves: an all-gather and
a reduce-scatter one half each, an all-reduce both (Patarasuk and Yuan 2009). An all-to-all moves
the same share of what a rank holds. Volumes by stage: Rajbhandari et al. 2020, section 7.
"""

from dataclasses import dataclass

from curriculum_api.estimate.hardware import Hardware, Speed
from curriculum_api.estimate.layout import Layout, Recompute
from curriculum_api.estimate.recipe import Recipe
from curriculum_api.estimate.shape import Shape
from curriculum_api.wire import Strategy


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one accelerator in one optimizer step."""

    all_reduced: float
    """Gradients, over all ranks, whole; computing may go on meanwhile."""

    reduced: float
    """Gradients, each rank's part to it alone."""

    scattered: float
    """Gradients, all parts to their ranks at once."""

    gathered: float
    """Weights."""

    sequence: float
    """The exchange of heads for positions, among sequence-parallel ranks; all wait for it."""

    @property
    def states(self) -> float:
        """Gradients and weights."""
        return self.all_reduced + self.reduced + self.scattered + self.gathered


def of(shape: Shape, recipe: Recipe, layout: Layout) -> Traffic:
    """The traffic of one optimizer step: P parameters, g and w bytes each, in m passes.

    DDP all-reduces them, 2 g P; ZeRO-1 reduces g P and gathers w P; ZeRO-2 the same but reduces in
    each pass; ZeRO-3 scatters g P in each pass and gathers w P for its forward and its backward
    half each, less the weights that stay from one to the other.
    """
    share = (layout.gpus - 1) / layout.gpus
    gradients = share * recipe.gradients * shape.parameters
    weights = share * recipe.weights * shape.parameters
    all_reduced, reduced, scattered, gathered = 0.0, 0.0, 0.0, weights
    match layout.strategy:
        case Strategy.DDP:
            all_reduced, gathered = 2 * gradients, 0.0
        case Strategy.ZERO1:
            reduced = gradients
        case Strategy.ZERO2:
            reduced = gradients * layout.passes
        case Strategy.ZERO3:
            each = recipe.gathered or recipe.weights
            narrow = min(recipe.gradients, recipe.gathered or recipe.gradients)
            scattered = share * narrow * shape.parameters * layout.passes
            again = max(0.0, shape.parameters - recipe.reused)
            gathered = share * each * (shape.parameters + again) * layout.passes
    sequence = _sequence(shape, recipe, layout)
    return Traffic(all_reduced, reduced, scattered, gathered, sequence)


def states_seconds(traffic: Traffic, link: Speed) -> float:
    """Seconds of gradients and weights over a link, were nothing else to be done."""
    return (
        traffic.all_reduced / link.measured
        + traffic.reduced / (link.reduce or link.measured)
        + traffic.scattered / (link.scatter or link.measured)
        + traffic.gathered / (link.gather or link.measured)
    )


def states_link(layout: Layout, hardware: Hardware) -> Speed | None:
    """What gradients and weights go over; None where there is one accelerator."""
    if layout.gpus == 1:
        return None
    return hardware.link if layout.nodes == 1 else hardware.ring


def sequence_link(layout: Layout, hardware: Hardware) -> Speed | None:
    """What the exchange goes over; each accelerator has but its own card between nodes."""
    if layout.sequence_parallel == 1:
        return None
    inside = layout.sequence_parallel <= layout.gpus_per_node
    return hardware.link if inside else hardware.fabric


def _sequence(shape: Shape, recipe: Recipe, layout: Layout) -> float:
    """Bytes of the all-to-alls: queries, keys and values out, the result back, in each block.

    Once forward, once backward, once more where blocks are computed again. Where there are more
    ranks than key heads, keys and values are repeated to as many (Jacobs et al. 2023, arXiv
    2309.14509, section 3).
    """
    degree = layout.sequence_parallel
    if degree == 1:
        return 0.0
    times = 3 if layout.recompute is Recompute.EVERYTHING else 2
    repeated = max(1.0, degree / shape.kv_heads)
    width = 2 * shape.query_width + 2 * shape.kv_width * repeated
    each = layout.pass_tokens * width * recipe.element * (degree - 1) / degree
    return each * shape.layers * times * layout.passes
