"""The article's own figures, reproduced from the article's own inputs, and where they cannot hold.

"The Honest Truth About Training AI on GB10" takes a GB10 as half an H200, 494 TFLOPS of dense BF16;
at 55 % of that, with 6 operations a parameter and token, its 14 to 15 days follow. Each claim here
stands beside what the same arithmetic gives from measured figures, with the reason in one line.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from curriculum_api.estimate import cost, flops, memory, recipe, throughput
from curriculum_api.estimate.hardware import GB, GIB, TERA, Hardware
from curriculum_api.estimate.layout import Kernels, Layout, Recompute
from curriculum_api.estimate.shape import Shape, of_preset
from curriculum_api.wire import OptimizerName, Precision, Strategy

H200_TFLOPS = 989.0
"""Dense BF16 of an H200 by its data sheet."""

GB10_SHARE = 0.5
"""The article: "roughly 1/2 the BF16 performance of an H200"."""

UTILIZATION = 0.55
"""What of it makes its timeline: the one number that the article does not give."""

H200_PRICE = 30_000.0
H200_MEASURED = 790 * TERA
"""A large BF16 product on an H200, as measured (stas00/ml-engineering, MAMF)."""

NODES = 20
PRICE, MONTHS, WATTS, KWH = 4000.0, 36, 240.0, 0.12
PRETRAIN, QUALITY = 141e9, 9e9
CLOUD_GPUS, CLOUD_PRICE = 10, 3.50
B200_PRICE, RENTED_HOURS, B200_GPUS = 4.0, 100.0, 8
LAN = 1.25 * GB
"""The 10GbE that checkpoints go over, bytes per second."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One figure: as the article has it, as its inputs give it, as measured figures give it."""

    what: str
    said: str
    reproduced: str
    measured: str
    holds: bool
    why: str


def claims(spark: Hardware, b200: Hardware) -> Iterable[Claim]:
    """Every figure of the article that can be computed; `spark` and `b200` carry measured ones."""
    shape = of_preset("llama-3.1-8b")
    yield from _timeline(shape, spark)
    yield from _memory(shape, spark, b200)
    yield _nvfp4(shape, b200)
    yield from _money(spark)


def layout(strategy: Strategy = Strategy.ZERO2, *, again: bool = True) -> Layout:
    """Phases 1 and 2 on the Sparks: 8K, eight sequences a step for each."""
    return Layout(
        nodes=NODES,
        gpus_per_node=1,
        strategy=strategy,
        context=8192,
        passes=8,
        recompute=Recompute.EVERYTHING if again else Recompute.NOTHING,
        kernels=Kernels.COMPILED,
        tile_tokens=4096,
    )


def needed_tflops(each: float, *, days: float, tokens: float = PRETRAIN) -> float:
    """TFLOPS that each Spark must sustain for `tokens` of `each` operations in `days`."""
    return each * tokens / NODES / (days * 86400) / TERA


def said_days(shape: Shape, tokens: float) -> float:
    """Days by the article's inputs: 6 N a token, on half an H200 at 55 %."""
    rate = H200_TFLOPS * GB10_SHARE * UTILIZATION * TERA * NODES
    return 6 * shape.parameters * tokens / rate / 86400


def measured_days(shape: Shape, spark: Hardware, tokens: float) -> float:
    """Days by the class's measured figures."""
    made = _speed(shape, spark)
    return tokens / made.tokens_per_second / 86400


def _speed(shape: Shape, spark: Hardware) -> throughput.Throughput:
    each = recipe.of_phase(Precision.BF16, OptimizerName.ADAMW, Strategy.ZERO2)
    return throughput.of(shape, each, layout(), spark, precision=Precision.BF16, length=8192)


def _timeline(shape: Shape, spark: Hardware) -> Iterable[Claim]:
    need = needed_tflops(6 * shape.parameters, days=14.5)
    whole = needed_tflops(flops.of(shape, layout(), length=8192).model, days=14.5)
    peak = spark.product(Precision.BF16)
    made = _speed(shape, spark)
    yield Claim(
        "phase 1: 141B tokens at 8K",
        "14-15 days",
        f"{said_days(shape, PRETRAIN):.1f} days",
        f"{measured_days(shape, spark, PRETRAIN):,.0f} days",
        False,
        f"14.5 days need {need:.0f} TFLOPS from each Spark by 6 N ({whole:.0f} with attention);"
        f" its largest BF16 product was measured at {peak.measured / TERA:.0f}, its peak is"
        f" {peak.peak / TERA:.0f}",
    )
    yield Claim(
        "phase 2: 9B tokens at 8K",
        "1-2 days",
        f"{said_days(shape, QUALITY):.1f} days",
        f"{measured_days(shape, spark, QUALITY):,.1f} days",
        False,
        f"at {made.tokens_per_second / NODES:,.0f} tokens/s of each Spark,"
        f" {made.flops_per_second / TERA:.0f} TFLOPS",
    )
    share = peak.measured / H200_MEASURED
    yield Claim(
        "a GB10 against an H200, BF16",
        "0.5x",
        f"{GB10_SHARE:.2f}x",
        f"{share:.2f}x",
        False,
        f"{peak.measured / TERA:.0f} of {H200_MEASURED / TERA:.0f} TFLOPS, largest products as"
        f" measured; 20 Sparks are {NODES * share:.1f} H200, not 10",
    )
    dearer = H200_PRICE / PRICE
    yield Claim(
        "performance for the price, H200 = 1",
        "4x",
        f"{GB10_SHARE * dearer:.2f}x",
        f"{share * dearer:.2f}x",
        False,
        f"an H200 costs {dearer:.1f} times as much and multiplies {1 / share:.1f} times as fast",
    )


def _memory(shape: Shape, spark: Hardware, b200: Hardware) -> Iterable[Claim]:
    each = recipe.of_phase(Precision.BF16, OptimizerName.ADAMW, Strategy.DDP)
    plain = memory.of(shape, each, layout(Strategy.DDP), spark)
    least = memory.of(shape, recipe.MIXED, layout(Strategy.DDP), spark)
    weights = shape.parameters * 2 / GIB
    moments = shape.parameters * (2 + 2 + 4 + 4) / GIB
    yield Claim(
        "phases 1, 2: memory of a GPU, DDP",
        "~40 GB",
        f"{weights:.0f} GiB BF16",
        f"{plain.total / GIB:.0f} GiB",
        False,
        f"40 leaves room for BF16 weights and activations only; gradients, moments and FP32"
        f" weights add {moments:.0f}, so even 16 bytes a parameter are {least.total / GIB:.0f} of"
        f" {spark.memory / GIB:.0f}",
    )
    long, longest = (_long(context) for context in (524288, 1048576))
    whole = replace(long, nodes=1, gpus_per_node=1, sequence_parallel=1)
    zero3 = recipe.of_phase(Precision.BF16, OptimizerName.ADAMW, Strategy.ZERO3, recomputed=True)
    kept = memory.of(shape, zero3, whole, b200)
    apart, most = (memory.of(shape, zero3, one, b200) for one in (long, longest))
    activations = (kept.activations + kept.block) / GIB
    yield Claim(
        "phase 3: activations at 512K",
        "100 GB+",
        f"{2 * 524288 * 4096 * 32 / GIB:.0f} GiB",
        f"{activations:,.0f} GiB whole",
        True,
        f"with every block recomputed; ZeRO-3 alone does not cut them, eight sequence-parallel"
        f" ranks do: {apart.total / GIB:.0f} of {b200.memory / GIB:.0f} GiB in all",
    )
    yield Claim(
        "phase 4: memory of one GPU at 1M",
        "maximum",
        "-",
        f"{most.total / GIB:.0f} GiB",
        True,
        f"of {b200.memory / GIB:.0f}, on eight sequence-parallel ranks",
    )
    size = shape.parameters * 12
    yield Claim(
        "a checkpoint over the 10GbE",
        "sufficient",
        "-",
        f"{size / LAN:.0f} s for {size / GB:.0f} GB",
        True,
        "weights and both moments in FP32; every hour that is 2 % of the time",
    )


def _long(context: int) -> Layout:
    """Phases 3 and 4 on one node of B200."""
    return Layout(
        nodes=1,
        gpus_per_node=8,
        strategy=Strategy.ZERO3,
        context=context,
        sequence_parallel=8,
        recompute=Recompute.EVERYTHING,
        kernels=Kernels.COMPILED,
        tile_tokens=4096,
    )


def _nvfp4(shape: Shape, b200: Hardware) -> Claim:
    one = Layout(
        1, 8, Strategy.ZERO3, context=8192, micro_batch=2, passes=4, kernels=Kernels.COMPILED
    )
    gains = []
    for length in (8192, 524288):
        rates = [
            throughput.of(
                shape,
                recipe.of_phase(precision, OptimizerName.ADAMW, Strategy.ZERO3),
                one,
                b200,
                precision=precision,
                length=length,
            ).tokens_per_second
            for precision in (Precision.BF16, Precision.NVFP4)
        ]
        gains.append(rates[1] / rates[0])
    return Claim(
        "NVFP4 against BF16 on B200",
        "2x",
        "2x",
        f"{gains[0]:.1f}x at 8K, {gains[1]:.2f}x at 512K",
        False,
        "1.68x was published for this model at 4K; attention, head and embedding stay in BF16, and"
        " at 512K attention is nine tenths of the work",
    )


def _money(spark: Hardware) -> Iterable[Claim]:
    hourly = PRICE / (MONTHS * cost.HOURS_PER_MONTH)
    power = WATTS / 1000 * KWH
    yield Claim(
        "a Spark's hour, owned",
        "$0.08",
        f"${hourly:.3f}",
        f"${hourly + power:.3f}",
        False,
        f"half of $0.15: ${PRICE:,.0f} over {MONTHS} months of {cost.HOURS_PER_MONTH:.0f} hours,"
        f" without power, worked every hour; power adds ${power:.3f}",
    )
    said = NODES * WATTS / 1000 * cost.HOURS_PER_MONTH * KWH
    real = NODES * spark.load_watts / 1000 * cost.HOURS_PER_MONTH * KWH
    yield Claim(
        "power of 20 Sparks, a month",
        "$520",
        f"${said:,.0f}",
        f"${real:,.0f}",
        False,
        f"{WATTS:.0f} W is the supply's rating and makes ${said:,.0f} at ${KWH}/kWh, not $520; the"
        f" chip's TDP, {spark.load_watts:.0f} W, is nearer to what was observed",
    )
    amortized = NODES * PRICE / MONTHS
    yield Claim(
        "20 Sparks, a month",
        "$2,700",
        f"${amortized + said:,.0f}",
        f"${amortized + real:,.0f}",
        True,
        f"$80,000 over {MONTHS} months is ${amortized:,.0f}; without switch, cables and people",
    )
    cloud = CLOUD_GPUS * CLOUD_PRICE * cost.HOURS_PER_MONTH
    equal = NODES * spark.product(Precision.BF16).measured / H200_MEASURED
    fair = equal * CLOUD_PRICE * cost.HOURS_PER_MONTH
    yield Claim(
        "as many cloud H200, a month",
        "$25,000",
        f"${cloud:,.0f}",
        f"${fair:,.0f}",
        False,
        f"20 Sparks do the work of {equal:.1f} H200, not of {CLOUD_GPUS}",
    )
    node = B200_PRICE * RENTED_HOURS * B200_GPUS
    yield Claim(
        "100 rented hours a month",
        "$350",
        f"${CLOUD_PRICE * RENTED_HOURS:,.0f}",
        f"${node:,.0f}",
        False,
        f"$350 is one GPU at $3.50; B200 are rented as nodes of {B200_GPUS}, at the article's own"
        f" ${B200_PRICE:.0f}",
    )
    bought = NODES * PRICE
    before = cost.breakeven_months(
        bought=bought, owned_monthly=said + CLOUD_PRICE * RENTED_HOURS, cloud_monthly=cloud
    )
    after = cost.breakeven_months(bought=bought, owned_monthly=real, cloud_monthly=fair)
    yield Claim(
        "breakeven against the cloud",
        "~3 months",
        f"{before:.1f} months" if before else "never",
        f"{after:.1f} months" if after else "never",
        False,
        "for the same work; it still pays, within the price's 36 months, if the Sparks always work",
    )
