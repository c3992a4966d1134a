"""An accelerator class as numbers: what was published and what was measured, kept apart.

FLOP/s, bytes per second, watts of a whole node, hours. Where nothing was measured the estimate
says so and takes the share of the published figure that other classes reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec, Rate
from curriculum_api.wire import OptimizerName, Precision

GIB = 2**30
GB = 1e9
TERA = 1e12

MATMUL_SHARE = 0.75
"""Of the published dense FLOP/s that a large matrix product reaches, where it was not measured.

Measured: GB10 0.73, B200 0.78, H100 0.80, A100 0.87 in BF16; H100 0.71 in FP8.
"""

BANDWIDTH_SHARE = 0.8
"""The same for memory and links: GB10's memory 0.80, its RoCE 0.95, NVLink 0.75 to 0.85."""

ATTENTION_SHARE = 0.45
"""Of the measured BF16 matrix product that fused attention reaches, where it was not measured.

FlashAttention-2 on an H100, forward and backward, causal, heads 128 wide (arXiv 2407.08608).
"""


@dataclass(frozen=True, slots=True)
class Speed:
    """A rate: `peak` is what nothing can exceed, `measured` what was seen."""

    peak: float
    measured: float
    latency: float = 0.0
    """Seconds of the smallest transfer, where measured."""

    reduce: float | None = None
    """Of a reduction to one rank, where it is another than `measured`, an all-reduce's."""

    scatter: float | None = None
    """Of a reduce-scatter, likewise."""

    gather: float | None = None
    """Of an all-gather, likewise."""

    def __post_init__(self) -> None:
        for rate in (self.measured, self.reduce, self.scatter, self.gather):
            if rate is not None and not 0 < rate <= self.peak:
                raise ValueError(
                    f"a measured rate must be above 0 and at most its peak, not {rate:g} of"
                    f" {self.peak:g}: correct one of them"
                )

    def times(self, count: int) -> "Speed":
        """As many of it at once."""
        return Speed(
            self.peak * count,
            self.measured * count,
            reduce=self.reduce and self.reduce * count,
            scatter=self.scatter and self.scatter * count,
            gather=self.gather and self.gather * count,
        )

    def at_most(self, other: "Speed") -> "Speed":
        """Both one after the other: of each kind the slower."""
        return Speed(
            min(self.peak, other.peak),
            min(self.measured, other.measured),
            reduce=min(self.reduce or self.measured, other.reduce or other.measured),
            scatter=min(self.scatter or self.measured, other.scatter or other.measured),
            gather=min(self.gather or self.measured, other.gather or other.measured),
        )


@dataclass(frozen=True, slots=True)
class Room:
    """The memory of one accelerator, which every class tells; bytes."""

    memory: float
    unified: bool
    shared_memory: float
    process: float | None = None
    engine: float = 0.0
    fragmentation: float | None = None


@dataclass(frozen=True, slots=True)
class Ownership:
    """What an owned node costs: US dollars, months of use, dollars a kWh, share of time used."""

    price: float
    months: float
    kwh_price: float
    utilization: float


@dataclass(frozen=True, slots=True)
class Hardware:
    """The numbers of one class; links are per accelerator and direction, watts per node."""

    name: str
    gpus_per_node: int
    memory: float
    """Bytes of one accelerator; on unified memory the host's share is in it."""

    unified: bool
    shared_memory: float
    matmul: Mapping[Precision, Speed]
    attention: float
    """FLOP/s of fused BF16 attention, measured or by share."""

    bandwidth: Speed
    link: Speed | None
    """Between the accelerators of a node; None where there is one."""

    fabric: Speed
    """Between nodes, each accelerator's own."""

    host: Speed | None
    """Between an accelerator and its host's memory; None on unified memory."""

    storage: Speed
    """From one node to where checkpoints lie."""

    idle_watts: float
    load_watts: float
    mttf_hours: float | None
    """Mean time between failures of one node."""

    ownership: Ownership | None

    half_width: Mapping[Precision, float] = field(default_factory=dict)
    """Inner width at which products reach half their rate, where that was measured."""

    attentions: Mapping[Precision, float] = field(default_factory=dict)
    """FLOP/s of fused attention in a format, where measured; `attention` where not."""

    half_length: Mapping[Precision, float] = field(default_factory=dict)
    """Tokens at which attention reaches half of that, where measured."""

    block: float = 0.0
    """Seconds of a block beside arithmetic and memory: the start of each of its operations."""

    gathering: float = 0.0
    """Seconds of a block in which its weights are gathered and let go, beside their bytes."""

    logit: float | None = None
    """Seconds of a logit in its loss beside its product, where measured."""

    updates: Mapping[OptimizerName, float] = field(default_factory=dict)
    """Parameters a second that an optimizer updates, where measured."""

    sharded_update: float = 0.0
    """Seconds that an update takes besides for each parameter where states are sharded."""

    process: float | None = None
    """Bytes of a training process before its model, where measured."""

    engine: float = 0.0
    """Bytes that DeepSpeed takes besides, where measured."""

    fragmentation: float | None = None
    """Share of what comes and goes that the allocator keeps besides, where measured."""

    @property
    def ring(self) -> Speed:
        """What a ring over several nodes gives each accelerator.

        NCCL runs a ring through every network card at once, so each accelerator sees the node's
        cards together, but no more than the links inside the node.
        """
        together = self.fabric.times(self.gpus_per_node)
        return together if self.link is None else together.at_most(self.link)

    def product(self, precision: Precision) -> Speed:
        """FLOP/s of a matrix product.

        Raises:
            ValueError: the class carries no number for this precision.
        """
        if precision not in self.matmul:
            known = ", ".join(self.matmul) or "none"
            raise ValueError(
                f'accelerator class "{self.name}" has no speed for {precision}; known: {known};'
                " add it to spec.performance.matmul"
            )
        return self.matmul[precision]


def room_of(spec: AcceleratorClassSpec) -> Room:
    """The memory of an AcceleratorClass, also of one that cannot be timed."""
    numbers = spec.performance
    process = numbers.process_gib if numbers else None
    kept = numbers.fragmentation if numbers else None
    return Room(
        memory=spec.memory_gib * GIB,
        unified=spec.unified_memory,
        shared_memory=spec.shared_memory_gib * GIB,
        process=None if process is None else float(process) * GIB,
        engine=float((numbers and numbers.engine_gib) or 0) * GIB,
        fragmentation=None if kept is None else float(kept),
    )


def of_class(name: str, spec: AcceleratorClassSpec) -> Hardware:
    """The numbers of an AcceleratorClass.

    Raises:
        ValueError: it carries none, or they contradict each other.
    """
    numbers = spec.performance
    if numbers is None:
        raise ValueError(
            f'accelerator class "{name}" has no spec.performance, so nothing can be estimated on'
            " it: add its published and measured rates"
        )
    if spec.gpus_per_node > 1 and numbers.link is None:
        raise ValueError(
            f'accelerator class "{name}" has {spec.gpus_per_node} accelerators a node and no'
            " spec.performance.link: add the rate between them"
        )
    try:
        return _hardware(name, spec)
    except ValueError as error:
        raise ValueError(f'accelerator class "{name}": {error}') from error


def _hardware(name: str, spec: AcceleratorClassSpec) -> Hardware:
    numbers = spec.performance
    assert numbers is not None
    matmul = {
        rate.precision: _speed(rate.peak_tflops, rate.measured_tflops, TERA, MATMUL_SHARE)
        for rate in numbers.matmul
    }
    attention = numbers.attention_tflops
    known = matmul.get(Precision.BF16) or next(iter(matmul.values()))
    attends = float(attention) * TERA if attention else known.measured * ATTENTION_SHARE
    if attends <= 0:
        raise ValueError(f"attentionTFLOPS must be above 0, not {attention}: correct it")
    owned, power, room = spec.ownership, spec.power, room_of(spec)
    return Hardware(
        name=name,
        gpus_per_node=spec.gpus_per_node,
        memory=room.memory,
        unified=room.unified,
        shared_memory=room.shared_memory,
        matmul=matmul,
        attention=attends,
        bandwidth=_rate(numbers.memory),
        link=_rate(numbers.link) if numbers.link else None,
        fabric=_rate(numbers.fabric),
        host=_rate(numbers.host) if numbers.host else None,
        storage=_rate(numbers.storage),
        idle_watts=float(power.idle_watts) if power else 0.0,
        load_watts=float(power.load_watts) if power else 0.0,
        mttf_hours=float(spec.reliability.mttf_hours) if spec.reliability else None,
        ownership=Ownership(
            price=float(owned.price_usd),
            months=float(owned.months),
            kwh_price=float(owned.usd_per_kwh),
            utilization=float(owned.utilization),
        )
        if owned
        else None,
        half_width={
            rate.precision: float(rate.half_width)
            for rate in numbers.matmul
            if rate.half_width is not None
        },
        attentions={
            rate.precision: float(rate.attention_tflops) * TERA
            for rate in numbers.matmul
            if rate.attention_tflops is not None
        },
        half_length={
            rate.precision: float(rate.half_length)
            for rate in numbers.matmul
            if rate.half_length is not None
        },
        block=float(numbers.block_microseconds or 0) / 1e6,
        gathering=float(numbers.gather_microseconds or 0) / 1e6,
        sharded_update=float(numbers.sharded_nanoseconds or 0) / 1e9,
        logit=None if numbers.logit_nanoseconds is None else float(numbers.logit_nanoseconds) / 1e9,
        updates={
            update.optimizer: float(update.giga_parameters) * 1e9 for update in numbers.updates
        },
        process=room.process,
        engine=room.engine,
        fragmentation=room.fragmentation,
    )


def _rate(rate: Rate) -> Speed:
    found = _speed(rate.peak_gbps, rate.measured_gbps, GB, BANDWIDTH_SHARE)
    return replace(
        found,
        latency=float(rate.latency_microseconds or 0) / 1e6,
        reduce=None if rate.reduce_gbps is None else float(rate.reduce_gbps) * GB,
        scatter=None if rate.scatter_gbps is None else float(rate.scatter_gbps) * GB,
        gather=None if rate.gather_gbps is None else float(rate.gather_gbps) * GB,
    )


def _speed(peak: str, measured: str | None, unit: float, share: float) -> Speed:
    top = float(peak) * unit
    return Speed(peak=top, measured=top * share if measured is None else float(measured) * unit)
