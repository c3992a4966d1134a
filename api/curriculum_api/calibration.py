"""The accelerator class that follows from what `curriculum doctor --calibrate` measured. Pure."""

from collections.abc import Sequence

from curriculum_api.calibration_figures import Figures, Held, Trial
from curriculum_api.estimate import communication, flops, memory, rules, throughput
from curriculum_api.estimate.hardware import GB, GIB, TERA, Room, Speed
from curriculum_api.estimate.layout import Layout
from curriculum_api.estimate.recipe import Recipe, of_phase
from curriculum_api.estimate.shape import Shape
from curriculum_api.v1alpha1.accelerator_class import (
    AcceleratorClass,
    AcceleratorClassSpec,
    MatchRule,
    MatmulRate,
    Performance,
    Rate,
    UpdateRate,
)
from curriculum_api.v1alpha1.fabric import Fabric
from curriculum_api.v1alpha1.meta import ObjectMeta
from curriculum_api.wire import OptimizerName, Precision, Strategy

COMMAND = "curriculum doctor --calibrate"

IMAGE = "curriculum-trainer"
"""Stands in the class until its reader names the image of a cluster."""

HEAD_WIDTH = 64
"""Of the blocks that the probe tries."""


def accelerator_class(
    figures: Figures, *, name: str, host: str, architecture: str, date: str
) -> AcceleratorClass:
    """The class of the machine that was measured.

    A CPU's class matches the very node: others of the same make may be slower. Where no published
    figure stands beside a measured one, the fastest single try does.
    """
    source = f"measured by {COMMAND} on {date}; peak: the fastest try of it"
    cpu = figures.device == "cpu"
    bandwidth, block_seconds = elementwise(figures) if cpu else (figures.copied, None)
    link = _link(figures, source)
    update, gathering = sharding_seconds(figures)
    labels = {"kubernetes.io/hostname": host}
    memory_gib = max(1, int(figures.memory_bytes / GIB))
    return AcceleratorClass(
        metadata=ObjectMeta(name=name),
        spec=AcceleratorClassSpec(
            match=(
                MatchRule(labels=labels)
                if figures.capability is None
                else MatchRule(compute_capability=figures.capability),
            ),
            cpu_architecture="arm64" if architecture in ("arm64", "aarch64") else "amd64",
            gpus_per_node=figures.processes,
            memory_gib=memory_gib,
            shared_memory_gib=max(1, min(8, memory_gib // rules.SHARED_PART)),
            unified_memory=cpu,
            trains=tuple(rate.precision for rate in _matmul(figures, source)),
            image=IMAGE,
            fabric=Fabric(profile="none"),
            performance=Performance(
                matmul=_matmul(figures, source),
                memory=Rate(
                    peak_gbps=_number(max(figures.fastest_copy, bandwidth) / GB),
                    measured_gbps=_number(bandwidth / GB),
                    source=source,
                ),
                link=link,
                # nodes were not tried: what processes of one reach over its loopback is the most
                fabric=link or _rate(figures.storage, f"{source}; of storage: no second node"),
                storage=_rate(figures.storage, source),
                block_microseconds=None if block_seconds is None else _number(block_seconds * 1e6),
                gather_microseconds=_number(gathering * 1e6) if figures.steps else None,
                logit_nanoseconds=_number(logit_seconds(figures) * 1e9) if figures.loss else None,
                updates=tuple(
                    UpdateRate(
                        optimizer=update.optimizer,
                        giga_parameters=_number(update.rate / 1e9),
                        source=source,
                    )
                    for update in figures.updates
                ),
                sharded_nanoseconds=_number(update * 1e9) if figures.steps else None,
                process_gib=_number(figures.process_bytes / GIB),
                engine_gib=_number(figures.engine_bytes / GIB) if figures.engine_bytes else None,
                fragmentation=_number(fragmentation(figures.held)) if figures.held else None,
            ),
        ),
    )


def saturation(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The rate that grows towards `best` and reaches half of it at `half`, through (width, rate).

    1 / rate is a line over 1 / width: its intercept is 1 / best, its slope half / best. The line
    minimises the squares of relative errors, so that no width counts more than another.
    """
    # of relative errors (a + b / width) rate - 1
    intercept, slope = _plane([(rate, rate / width, 1.0) for width, rate in points])
    fastest = max(rate for _, rate in points)
    if intercept <= 0 or slope <= 0:
        return fastest, 0.0
    return 1 / intercept, slope / intercept


def elementwise(figures: Figures) -> tuple[float, float]:
    """Bytes a second of a block's elementwise work, and the seconds that a block takes besides.

    What a block takes beyond its products and attention is bytes over a rate and a time that does
    not grow. The trials are fitted at once, each by its relative error.
    """
    rows = []
    for trial in figures.trials:
        rest = trial.seconds - _arithmetic(figures, trial)
        moved = trial.tokens * _block_bytes(trial)
        rows.append((moved / trial.seconds, 1 / trial.seconds, rest / trial.seconds))
    slope, block = _plane(rows)
    # where noise makes either negative, the other has to explain what there is
    if block <= 0:
        slope = sum(u * z for u, _, z in rows) / sum(u * u for u, _, _ in rows)
    elif slope <= 0:
        block = sum(v * z for _, v, z in rows) / sum(v * v for _, v, _ in rows)
    return (1 / slope if slope > 0 else figures.copied), max(0.0, block)


def _plane(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """The a and b with which a x + b y comes nearest to z."""
    xx, xy, yy = (
        sum(x * x for x, _, _ in rows), sum(x * y for x, y, _ in rows),
        sum(y * y for _, y, _ in rows),
    )  # fmt: skip
    xz, yz = sum(x * z for x, _, z in rows), sum(y * z for _, y, z in rows)
    determinant = xx * yy - xy * xy
    if not determinant:
        return 0.0, 0.0
    return (xz * yy - yz * xy) / determinant, (yz * xx - xz * xy) / determinant


def logit_seconds(figures: Figures) -> float:
    """Seconds of a logit beside its product."""
    loss = figures.loss
    assert loss is not None
    best, half = _curve(figures, Precision.FP32)
    product = 6 * loss.width / (best * loss.width / (loss.width + half))
    return max(0.0, loss.seconds / (loss.tokens * loss.vocab) - product)


def sharding_seconds(figures: Figures) -> tuple[float, float]:
    """What DeepSpeed takes beside what `estimate` counts: seconds of each parameter that a process
    updates, and of each block whose weights it gathers.

    Each is what a step takes beyond one without sharding, less what is sent and plus what others
    update; the block's is that between a model of one block and one of more.
    """
    if not figures.steps:
        return 0.0, 0.0
    taken = {(step.strategy, step.layers): step for step in figures.steps}
    few, many = sorted({layers for _, layers in taken})
    (rate,) = (u.rate for u in figures.updates if u.optimizer is OptimizerName.ADAMW)

    def beyond(strategy: Strategy, layers: int, besides: float) -> float:
        """Seconds of a step that remain unexplained."""
        step, plain = taken[strategy, layers], taken[Strategy.DDP, layers]
        shape = block_shape(step.hidden, step.intermediate, layers, step.vocab)
        own = shape.parameters / figures.processes
        counted = own * (1 / rate + besides) - shape.parameters / rate
        return step.seconds - plain.seconds - counted - _sending(figures, shape, strategy)

    whole = taken[Strategy.ZERO1, many]
    shape = block_shape(whole.hidden, whole.intermediate, many, whole.vocab)
    update = beyond(Strategy.ZERO1, many, 0.0) / (shape.parameters / figures.processes)
    update = max(0.0, update)
    more, less = (beyond(Strategy.ZERO3, layers, update) for layers in (many, few))
    return update, max(0.0, (more - less) / (many - few))


def _sending(figures: Figures, shape: Shape, strategy: Strategy) -> float:
    link = _speed(figures)
    if link is None:
        return 0.0
    layout = Layout(1, figures.processes, strategy, context=1)
    recipe = of_phase(Precision.FP32, OptimizerName.ADAMW, strategy)
    return communication.states_seconds(communication.of(shape, recipe, layout), link)


def fragmentation(held: Held) -> float:
    """Share of what comes and goes that the allocator keeps besides: what a process grew by, less
    the states of its model, over the sum of its tensors."""
    shape = block_shape(held.hidden, held.intermediate, held.layers, held.vocab)
    layout = Layout(1, 1, Strategy.DDP, context=held.tokens)
    none = Room(memory=0.0, unified=False, shared_memory=0.0, process=0.0, fragmentation=0.0)
    found = memory.of(shape, _recipe(), layout, none)
    states = found.total - found.passing
    return max(0.0, (held.grown_bytes - states) / found.passing - 1)


def block_shape(hidden: int, intermediate: int, layers: int = 1, vocab: int = 1) -> Shape:
    """The blocks that the probe tries."""
    heads = max(1, hidden // HEAD_WIDTH)
    return Shape(
        hidden=hidden, intermediate=intermediate, layers=layers, heads=heads, kv_heads=heads,
        head_dim=hidden // heads, vocab=vocab, tied=True,
    )  # fmt: skip


def _arithmetic(figures: Figures, trial: Trial) -> float:
    shape = block_shape(trial.hidden, trial.intermediate)
    layout = Layout(1, 1, Strategy.DDP, context=trial.tokens)
    work = flops.of(shape, layout, length=trial.document)
    best, half = _curve(figures, Precision.FP32)
    product = best * trial.hidden / (trial.hidden + half)
    best, half = _attention(figures, Precision.FP32)
    attention = best * trial.document / (trial.document + half)
    return trial.tokens * (work.blocks / product + work.attention / attention)


def _block_bytes(trial: Trial) -> float:
    shape = block_shape(trial.hidden, trial.intermediate, vocab=0)
    layout = Layout(1, 1, Strategy.DDP, context=trial.tokens)
    return throughput.elementwise_bytes(shape, _recipe(), layout, Precision.FP32)


def _recipe() -> Recipe:
    return of_phase(Precision.FP32, OptimizerName.ADAMW, Strategy.DDP)


def _attention(figures: Figures, precision: Precision) -> tuple[float, float]:
    """Best rate and the length of half of it; nothing where the format was not tried."""
    found = [(a.length, a.rate) for a in figures.attention if a.precision is precision]
    return saturation(found) if found else (0.0, 0.0)


def _curve(figures: Figures, precision: Precision) -> tuple[float, float]:
    return saturation([(p.width, p.rate) for p in figures.products if p.precision is precision])


def _matmul(figures: Figures, source: str) -> tuple[MatmulRate, ...]:
    made = []
    for precision in dict.fromkeys(product.precision for product in figures.products):
        best, half = _curve(figures, precision)
        fastest = max(p.fastest for p in figures.products if p.precision is precision)
        several = sum(p.precision is precision for p in figures.products) > 1
        attention, length = _attention(figures, precision)
        made.append(
            MatmulRate(
                precision=precision,
                peak_tflops=_number(max(fastest, best) / TERA),
                measured_tflops=_number(best / TERA),
                half_width=_number(half) if several else None,
                attention_tflops=_number(attention / TERA) if attention else None,
                half_length=_number(length) if attention else None,
                source=source,
            )
        )
    return tuple(made)


def _rate(bytes_per_second: float, source: str) -> Rate:
    rate = _number(bytes_per_second / GB)
    return Rate(peak_gbps=rate, measured_gbps=rate, source=source)


def _speed(figures: Figures) -> Speed | None:
    """What the processes reach together; nothing of one."""
    if figures.link is None:
        return None
    apart = figures.reduce, figures.scatter, figures.gather
    fastest = max(figures.link, *(rate for rate in apart if rate is not None))
    reduce, scatter, gather = apart
    return Speed(fastest, figures.link, reduce=reduce, scatter=scatter, gather=gather)


def _link(figures: Figures, source: str) -> Rate | None:
    speed, latency = _speed(figures), figures.latency_seconds
    if speed is None:
        return None
    return Rate(
        peak_gbps=_number(speed.peak / GB),
        measured_gbps=_number(speed.measured / GB),
        reduce_gbps=_number(speed.reduce / GB) if speed.reduce else None,
        scatter_gbps=_number(speed.scatter / GB) if speed.scatter else None,
        gather_gbps=_number(speed.gather / GB) if speed.gather else None,
        latency_microseconds=None if latency is None else _number(latency * 1e6),
        source=source,
    )


def _number(value: float) -> str:
    return f"{value:.4g}"
