"""Seconds of one optimizer step, and tokens a second, from what a class can do.

A step takes the time of its matrix products, of its fused attention, of its elementwise work (which
memory bandwidth bounds), of the optimizer's pass over the states, and of the communication that
computing does not hide. Rates are the class's own, measured; the numbers below say how near a
whole training step comes to them. They are the same for every class, model and length, and were
fitted to all rows of `benchmarks/published.py` at once; none belongs to a single row.
"""

from dataclasses import dataclass, fields

from curriculum_api.estimate import communication, flops
from curriculum_api.estimate.hardware import Hardware, Speed
from curriculum_api.estimate.layout import Kernels, Layout, Recompute
from curriculum_api.estimate.recipe import Recipe
from curriculum_api.estimate.shape import Shape
from curriculum_api.wire import Precision, Strategy

PRODUCT_SHARE = 0.83
"""Of a class's best matrix product that products of a training step reach, were they wide."""

PRODUCT_FILL = 500.0
"""Inner width at which a product reaches half of that: a tile's start and end cost as much as this
many steps of it. It grows with the format's speed, because they do not get faster."""

PASSES = {Kernels.EAGER: 7.0, Kernels.NATIVE: 4.8, Kernels.COMPILED: 1.5}
"""Times that each activation is read or written beside the products and attention."""

EXPOSED = 0.9
"""Share of the collectives' time that lengthens a step although computing goes on: they take
multiprocessors and memory bandwidth away from it, and the first and the last wait."""

QUANTISED = {
    Precision.FP8: 1.0,
    Precision.MXFP8: 1.0,
    Precision.NVFP4: 0.84,
}
"""Share of the blocks' products in the named format. NVFP4 keeps the first two and last eight of 62
blocks in BF16 (arXiv 2509.25149); head, embedding and attention are BF16 everywhere."""

QUANTISE_PASSES = 3.0
"""Times that each input of a quantised product is read or written to be scaled and cast."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds of one optimizer step, by what they go to."""

    products: float
    attention: float
    elementwise: float
    optimizer: float
    starting: float
    """Of operations, where a processor starts them itself."""

    communication: float
    """What is not hidden behind computing."""

    offload: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Every part by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def at(self, efficiency: float) -> "Seconds":
        """The same parts, as long as an efficiency makes them."""
        return Seconds(**{name: part / efficiency for name, part in self.parts().items()})

    def dominant(self) -> str:
        """What most of the step goes to."""
        parts = self.parts()
        return max(parts, key=parts.__getitem__)


@dataclass(frozen=True, slots=True)
class Throughput:
    """How fast a layout trains; rates over all accelerators unless they say otherwise."""

    seconds: Seconds
    step_tokens: int
    tokens_per_second: float
    flops_per_second: float
    """Model FLOP/s of one accelerator."""

    mfu: float
    """Those over the published peak of the format that is trained in."""


class Impossible(AssertionError):
    """An estimate that exceeds what the hardware can do: an error in the model, not in the plan."""


def of(
    shape: Shape,
    recipe: Recipe,
    layout: Layout,
    hardware: Hardware,
    *,
    precision: Precision,
    length: float,
    efficiency: float = 1.0,
) -> Throughput:
    """How fast a phase trains whose tokens attend to `length` others.

    `efficiency` is what was measured before over what was estimated then.

    Raises:
        ValueError: the class carries no number that is needed.
        Impossible: the result would exceed a physical limit.
    """
    work = flops.of(shape, layout, length=length)
    tokens = layout.pass_tokens * layout.passes
    traffic = communication.of(shape, recipe, layout)
    products = tokens * _product_seconds(shape, work, hardware, precision)
    attention = tokens * work.attention / _attention(hardware, precision, length)
    moved = tokens * elementwise_bytes(shape, recipe, layout, precision)
    loss = tokens * _loss_bytes(shape, layout)
    updated = optimizer_bytes(shape, recipe, layout)
    seconds = Seconds(
        products=products,
        attention=attention,
        elementwise=(moved - loss) / hardware.bandwidth.measured
        + _loss(shape, layout, hardware) * tokens,
        optimizer=_updating(shape, recipe, layout, hardware),
        starting=_starting(shape, layout, hardware),
        communication=_exposed(traffic, layout, hardware, computing=products + attention),
        offload=_offload(shape, recipe, layout, hardware),
    ).at(efficiency)
    made = Throughput(
        seconds=seconds,
        step_tokens=layout.step_tokens,
        tokens_per_second=layout.step_tokens / seconds.total,
        flops_per_second=work.model * tokens / seconds.total,
        mfu=work.model * tokens / seconds.total / hardware.product(precision).peak,
    )
    _check(made, work, traffic, moved + updated, layout, hardware, precision)
    return made


def elementwise_bytes(shape: Shape, recipe: Recipe, layout: Layout, precision: Precision) -> float:
    """Bytes of memory that one token's elementwise work moves, forward and backward.

    A block's activations are eight hidden widths, the four of attention's tensors and three
    intermediate ones; the loss makes a handful of passes over FP32 logits.
    """
    wide = 8 * shape.hidden + 2 * (shape.query_width + shape.kv_width) + 3 * shape.intermediate
    passes = PASSES[layout.kernels]
    again = 1.5 if layout.recompute is Recompute.EVERYTHING else 1.0
    mean = (recipe.element + recipe.residual) / 2
    blocks = shape.layers * wide * passes * again * mean
    if precision in QUANTISED:
        inputs = 4 * shape.hidden + 3 * shape.intermediate
        blocks += shape.layers * inputs * QUANTISE_PASSES
    return blocks + _loss_bytes(shape, layout)


def _loss_bytes(shape: Shape, layout: Layout) -> float:
    return shape.vocab * (16.0 if layout.kernels is Kernels.COMPILED else 30.0)


def _loss(shape: Shape, layout: Layout, hardware: Hardware) -> float:
    """Seconds of one token's loss beside its product: by its logits, where one was measured, with
    the forward pass, a third of it, twice where it is tiled; else by their bytes."""
    if hardware.logit is None:
        return _loss_bytes(shape, layout) / hardware.bandwidth.measured
    tiled = layout.tile_tokens is not None and layout.tile_tokens < layout.pass_tokens
    return shape.vocab * hardware.logit * (4 / 3 if tiled else 1.0)


def optimizer_bytes(shape: Shape, recipe: Recipe, layout: Layout) -> float:
    """Bytes that one update moves: gradients read twice (for their norm), the rest read and
    written."""
    own = 1 if layout.strategy is Strategy.DDP else layout.gpus
    updated = recipe.master or recipe.weights
    return shape.parameters / own * 2 * (recipe.gradients + updated + recipe.moments)


def _product_seconds(
    shape: Shape, work: flops.Work, hardware: Hardware, precision: Precision
) -> float:
    """Seconds of one token's matrix products."""
    share = QUANTISED.get(precision, 1.0)
    wide = Precision.BF16 if precision in QUANTISED else precision
    slow, fast = hardware.product(wide), hardware.product(precision)

    def rate(format_: Precision, speed: Speed) -> float:
        half = hardware.half_width.get(format_)
        if half is not None:
            return speed.measured * shape.hidden / (shape.hidden + half)
        fill = PRODUCT_FILL * speed.measured / slow.measured
        return speed.measured * PRODUCT_SHARE * shape.hidden / (shape.hidden + fill)

    quick = work.blocks * share / rate(precision, fast) if share else 0.0
    return quick + (work.blocks * (1 - share) + work.head) / rate(wide, slow)


def _attention(hardware: Hardware, precision: Precision, length: float) -> float:
    """FLOP/s of attention: BF16 in every low format, and as slow as products are in FP32, where
    its own rate was not measured."""
    low = precision if precision is Precision.FP32 else Precision.BF16
    if low in hardware.attentions:
        return hardware.attentions[low] * length / (length + hardware.half_length.get(low, 0.0))
    if precision is Precision.FP32 and Precision.BF16 in hardware.matmul:
        ratio = hardware.product(precision).measured / hardware.product(Precision.BF16).measured
        return hardware.attention * min(1.0, ratio)
    return hardware.attention


def _updating(shape: Shape, recipe: Recipe, layout: Layout, hardware: Hardware) -> float:
    """Seconds of the update, by the optimizer's measured rate or by its bytes."""
    rate = hardware.updates.get(recipe.optimizer) if recipe.optimizer else None
    sharded = layout.strategy is not Strategy.DDP
    own = shape.parameters / (layout.gpus if sharded else 1)
    besides = own * hardware.sharded_update if sharded else 0.0
    if rate is None:
        return optimizer_bytes(shape, recipe, layout) / hardware.bandwidth.measured + besides
    return own / rate + besides


def _starting(shape: Shape, layout: Layout, hardware: Hardware) -> float:
    """Seconds in which operations are started; the two ends together are a block's worth.

    As many as there are tensors to pass over: fewer where neighbours are fused, half again as many
    where blocks are computed again.
    """
    again = 1.5 if layout.recompute is Recompute.EVERYTHING else 1.0
    fused = PASSES[layout.kernels] / PASSES[Kernels.EAGER]
    block = hardware.block * fused
    if layout.strategy is Strategy.ZERO3:
        block += hardware.gathering
    return block * (shape.layers + 1) * again * layout.passes


def _exposed(
    traffic: communication.Traffic, layout: Layout, hardware: Hardware, *, computing: float
) -> float:
    """Seconds of communication that a step waits for."""
    states_link = communication.states_link(layout, hardware)
    sequence_link = communication.sequence_link(layout, hardware)
    states = communication.states_seconds(traffic, states_link) if states_link else 0.0
    hidden = min((1 - EXPOSED) * states, computing)
    return states - hidden + (traffic.sequence / sequence_link.measured if sequence_link else 0.0)


def _offload(shape: Shape, recipe: Recipe, layout: Layout, hardware: Hardware) -> float:
    """Seconds to and from host memory; nothing on unified memory, where nothing moves."""
    moved = 0.0
    if layout.offload_activations and layout.recompute is Recompute.EVERYTHING:
        stream = layout.pass_tokens * shape.hidden * recipe.residual * shape.layers
        moved += 2 * stream * layout.passes
    if layout.offload_optimizer and layout.strategy is not Strategy.DDP:
        moved += shape.parameters / layout.gpus * (recipe.gradients + recipe.weights)
    if layout.offload_parameters and layout.strategy is Strategy.ZERO3:
        moved += 2 * layout.passes * shape.parameters / layout.gpus * recipe.weights
    if not moved or hardware.unified:
        return 0.0
    if hardware.host is None:
        raise ValueError(
            f'accelerator class "{hardware.name}" has no spec.performance.host, which offloading'
            " needs: add the rate to its host's memory"
        )
    return moved / hardware.host.measured


def _check(
    made: Throughput,
    work: flops.Work,
    traffic: communication.Traffic,
    moved: float,
    layout: Layout,
    hardware: Hardware,
    precision: Precision,
) -> None:
    """No step is faster than the peak of any part of the machine."""
    seconds, tokens = made.seconds.total, layout.pass_tokens * layout.passes
    limits = [
        ("FLOP/s", work.executed * tokens, hardware.product(precision).peak),
        ("memory bandwidth", moved, hardware.bandwidth.peak),
    ]
    for name, link, amount in (
        ("link", communication.states_link(layout, hardware), traffic.states),
        ("sequence link", communication.sequence_link(layout, hardware), traffic.sequence),
    ):
        if link is not None:
            limits.append((name, amount, link.peak * (1 + 1e-9)))
    for name, amount, peak in limits:
        if amount / seconds > peak:
            raise Impossible(
                f"{hardware.name}: the model gives {amount / seconds:.3g} of {name}, above its"
                f" peak {peak:.3g}"
            )
