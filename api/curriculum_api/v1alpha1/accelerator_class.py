"""AcceleratorClass: what a kind of node is, how it is recognised and how pods run on it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from curriculum_api.v1alpha1 import cel
from curriculum_api.v1alpha1.fabric import Fabric
from curriculum_api.v1alpha1.meta import AGE, ObjectMeta
from curriculum_api.v1alpha1.pod import Labels, PodTemplate, Toleration
from curriculum_api.wire import (
    API_VERSION,
    Column,
    Count,
    Decimal,
    ListMap,
    ListSet,
    OptimizerName,
    Precision,
    Reported,
    Resource,
    Rule,
    Wire,
)

Source = Annotated[str, Field(min_length=1, max_length=512)]
"""Where a figure comes from, for people."""


class MatchRule(Wire):
    """One way to recognise a node: everything that is given must hold.

    A rule without a product holds neither on a node whose product is named by no rule of the class,
    where any names one, nor on a node of another CPU architecture.
    """

    compute_capability: (
        Annotated[str, Field(max_length=4, pattern=r"^[0-9]{1,2}\.[0-9]$")] | None
    ) = None
    """CUDA compute capability, by the labels nvidia.com/gpu.compute.major and .minor."""

    product: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """GPU product, by the label nvidia.com/gpu.product."""

    labels: Labels = {}
    """Other labels that the node must carry: a cloud's, a site's, or nvidia.com/gpu.machine."""


class MatmulRate(Wire):
    """How fast matrices are multiplied in one number format, dense, in TFLOPS."""

    precision: Precision
    """The number format."""

    peak_tflops: Annotated[Decimal, Field(alias="peakTFLOPS")]
    """As published, without sparsity; no estimate exceeds it."""

    measured_tflops: Annotated[Decimal | None, Field(alias="measuredTFLOPS")] = None
    """As a large matrix product reaches; three quarters of the peak where absent."""

    half_width: Decimal | None = None
    """Inner width at which the products of a training step reach half of the measured rate, where
    that was measured; else a share and a width that GPUs have in common."""

    attention_tflops: Annotated[Decimal | None, Field(alias="attentionTFLOPS")] = None
    """Fused attention in this format, forward and backward, as measured over long documents; by
    the class's own where absent."""

    half_length: Decimal | None = None
    """Tokens of a document at which attention reaches half of that, because its kernels compute
    whole tiles of scores; where absent it is as fast over short ones."""

    source: Source
    """Where the figures come from."""


class Rate(Wire):
    """A bandwidth in GB/s (1e9 bytes), as published and as measured."""

    peak_gbps: Annotated[Decimal, Field(alias="peakGBps")]
    """As published; no estimate exceeds it."""

    measured_gbps: Annotated[Decimal | None, Field(alias="measuredGBps")] = None
    """As measured; four fifths of the peak where absent."""

    reduce_gbps: Annotated[Decimal | None, Field(alias="reduceGBps")] = None
    """Of links: a reduction's to one rank, as measured; `measuredGBps`, which is then an
    all-reduce's, where absent. NCCL's collectives are alike, gloo's are not."""

    scatter_gbps: Annotated[Decimal | None, Field(alias="reduceScatterGBps")] = None
    """Of links: a reduce-scatter's, likewise."""

    gather_gbps: Annotated[Decimal | None, Field(alias="allGatherGBps")] = None
    """Of links: an all-gather's, likewise."""

    latency_microseconds: Decimal | None = None
    """What the smallest collective takes, where it was measured."""

    source: Source
    """Where the figures come from."""


class UpdateRate(Wire):
    """How fast an optimizer updates what one accelerator holds."""

    optimizer: OptimizerName
    """The optimizer."""

    giga_parameters: Decimal
    """Billions of parameters a second whose gradients are measured and clipped, and which are
    updated."""

    source: Source
    """Where the figure comes from."""


class Performance(Wire):
    """How fast the nodes are; links are counted per accelerator and direction."""

    matmul: Annotated[
        tuple[MatmulRate, ...], Field(min_length=1, max_length=8), ListMap(("precision",))
    ]
    """Matrix products by number format."""

    attention_tflops: Annotated[Decimal | None, Field(alias="attentionTFLOPS")] = None
    """Fused BF16 attention, forward and backward, as measured; a share of the matrix product's
    where absent."""

    memory: Rate
    """The accelerator's memory."""

    link: Rate | None = None
    """Between the accelerators of one node."""

    fabric: Rate
    """Between nodes."""

    host: Rate | None = None
    """Between an accelerator and its host's memory."""

    storage: Rate
    """From one node to where checkpoints lie."""

    block_microseconds: Decimal | None = None
    """What a block takes forward and backward beside its arithmetic and its memory, because each of
    its operations has to be started; nothing where absent, as on a GPU, which works meanwhile."""

    gather_microseconds: Decimal | None = None
    """What ZeRO-3 takes, forward and backward, to gather a block's weights and to let them go,
    beside their bytes; nothing where absent, likewise."""

    logit_nanoseconds: Decimal | None = None
    """What a logit takes in its loss, forward and backward, beside its product; by the memory's
    rate where absent. Logits are the largest tensors of all, and memory that is new to a process
    costs a processor many times what memory at hand does."""

    updates: Annotated[tuple[UpdateRate, ...], Field(max_length=8), ListMap(("optimizer",))] = ()
    """Optimizers as measured; by the memory's rate where absent."""

    sharded_nanoseconds: Decimal | None = None
    """What an update takes besides for each parameter of an accelerator's part where states are
    sharded, because gradients and weights are copied; nothing where absent."""

    fragmentation: Decimal | None = None
    """Share of the tensors that come and go which the allocator keeps besides, as measured; 0.04
    where absent, as of GPUs' caching allocators."""

    process_gib: Annotated[Decimal | None, Field(alias="processGiB")] = None
    """What a training process takes before its model, as measured. `memoryGiB` is then what such
    processes can have, and nothing else is set aside on unified memory."""

    engine_gib: Annotated[Decimal | None, Field(alias="engineGiB")] = None
    """What DeepSpeed takes besides where states are sharded, as measured; nothing where absent."""


class Power(Wire):
    """What one node draws from the wall, in watts."""

    idle_watts: Annotated[int, Field(ge=0, le=1_000_000)]
    """Without work."""

    load_watts: Annotated[int, Field(ge=1, le=1_000_000)]
    """While it trains."""

    source: Source
    """Where the figures come from."""


class Ownership(Wire):
    """What an owned node costs."""

    price_usd: Annotated[Decimal, Field(alias="priceUSD")]
    """Price of one node in US dollars."""

    months: Annotated[int, Field(ge=1, le=240)] = 36
    """Months over which the price is spread."""

    usd_per_kwh: Annotated[Decimal, Field(alias="usdPerKWh")] = "0.12"
    """Price of electricity."""

    utilization: Decimal = "1"
    """Share of the time that the node works, from above 0 to 1: what idles makes work dearer."""


class Reliability(Wire):
    """How often the nodes fail."""

    mttf_hours: Annotated[int, Field(ge=1, le=10_000_000)]
    """Mean time between failures of one node that stop a job."""

    source: Source
    """Where the figure comes from."""


class Floors(Wire):
    """What preflight expects of a node or a pair; 0 expects nothing."""

    matmul_tflops: Annotated[Decimal | None, Field(alias="matmulTFLOPS")] = None
    """A large matrix product of one accelerator, in FP32 where the phase is, else in BF16."""

    clock_mhz: Annotated[Decimal | None, Field(alias="clockMHz")] = None
    """The accelerator's clock under load."""

    memory_gib: Annotated[Decimal | None, Field(alias="memoryGiB")] = None
    """What the host can still give before the model is built."""

    speed_gbit: Annotated[Decimal | None, Field(alias="speedGbps")] = None
    """Gb/s of the slowest interface of the fabric, as the kernel shows it."""

    mtu: Decimal | None = None
    """The smallest MTU of the fabric's interfaces."""

    errors_percent: Decimal | None = None
    """At most this share of frames that an interface could not take or send."""

    write_gbps: Annotated[Decimal | None, Field(alias="writeGBps")] = None
    """GB/s of one node to the checkpoint volume."""

    read_gbps: Annotated[Decimal | None, Field(alias="readGBps")] = None
    """GB/s of one node from the checkpoint volume."""

    loss_percent: Decimal | None = None
    """At most this share of segments that a pair had to send again."""

    link_gbps: Annotated[Decimal | None, Field(alias="linkGBps")] = None
    """GB/s between two nodes, each way and by accelerator."""

    latency_ms: Annotated[Decimal | None, Field(alias="latencyMs")] = None
    """At most this many milliseconds between two nodes, one way."""

    reduce_gbps: Annotated[Decimal | None, Field(alias="reduceGBps")] = None
    """GB/s of an all-reduce over all nodes, by accelerator; a phase that falls short of it alone
    is started and says so."""


class Preflight(Wire):
    """What the nodes of a phase prove before its first step."""

    enabled: bool = True
    """Whether anything is measured."""

    share: Annotated[str, Field(max_length=8, pattern=r"^(0(\.[0-9]+)?|1(\.0+)?)$")] = "0.7"
    """Of what `performance` says was measured: the floor where `floors` has none."""

    floors: Floors = Floors()
    """What is expected, where it is not that share."""

    rounds: Annotated[int, Field(ge=1, le=64)] = 3
    """Rounds of disjoint pairs of nodes; four nodes and fewer meet all of their pairs."""

    seconds: Annotated[int, Field(ge=10, le=3600)] = 120
    """A preflight takes no longer."""

    max_age_seconds: Annotated[int, Field(ge=0, le=2_592_000)] = 86_400
    """How long what was measured of a node holds; 0 measures before every attempt."""

    quarantine_seconds: Annotated[int, Field(ge=60, le=2_592_000)] = 21_600
    """How long a node that fell short is kept from use; then it is measured again."""


class AcceleratorClassSpec(Wire):
    """What a kind of node is."""

    match: Annotated[tuple[MatchRule, ...], Field(min_length=1, max_length=16)]
    """Rules, any of which is enough. Of several classes a node is of the one with the strongest
    evidence: compute capability before product, other labels and nvidia.com/gpu.machine."""

    cpu_architecture: Literal["amd64", "arm64"]
    """CPU architecture of the nodes, and so of the image."""

    gpu_resource: Annotated[str, Field(min_length=1, max_length=253)] = "nvidia.com/gpu"
    """Extended resource that counts the accelerators."""

    gpus_per_node: Annotated[int, Field(ge=1, le=64)]
    """Accelerators on one node."""

    memory_gib: Annotated[int, Field(alias="memoryGiB", ge=1, le=100_000)]
    """Memory of one accelerator in GiB; on unified memory the host's share is in it."""

    unified_memory: bool = False
    """CPU and accelerator share one memory."""

    trains: Annotated[tuple[Precision, ...], Field(min_length=1, max_length=8), ListSet()]
    """Precisions that it may train in."""

    serves: Annotated[tuple[Precision, ...], Field(max_length=8), ListSet()] = ()
    """Precisions that it may serve in."""

    image: Annotated[str, Field(min_length=1, max_length=512)]
    """Trainer image for these nodes."""

    shared_memory_gib: Annotated[int, Field(alias="sharedMemoryGiB", ge=1, le=4096)] = 8
    """Size of /dev/shm in GiB; on unified memory it draws on the same memory."""

    checkpoint_bandwidth_mbps: Annotated[
        int, Field(alias="checkpointBandwidthMBps", ge=1, le=1_000_000)
    ] = 500
    """Megabytes a second at which one of these nodes writes checkpoints; a pod's grace time at its
    end follows from it and the model's size."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints of these nodes that pods tolerate."""

    fabric: Fabric
    """How processes on these nodes reach each other."""

    performance: Performance | None = None
    """How fast the nodes are; plans need it."""

    power: Power | None = None
    """What one node draws."""

    ownership: Ownership | None = None
    """What an owned node costs."""

    reliability: Reliability | None = None
    """How often the nodes fail."""

    preflight: Preflight | None = None
    """What nodes prove before a phase's first step; nothing where absent."""

    pod_template: PodTemplate = PodTemplate()
    """What is added to the pods on these nodes."""


class Measurement(Reported):
    """How one shape of model was seen to train on these nodes in one precision."""

    model: Annotated[str, Field(min_length=1, max_length=63)]
    """The shape: layers and width, and the parameters in billions."""

    precision: Precision
    """What its matrices were multiplied in."""

    efficiency: Decimal
    """Measured tokens a second over the estimated ones; plans are scaled by it."""

    tokens_per_second: Decimal
    """Of one accelerator, in the newest phase."""

    phases: Count = 1
    """Phases that it was measured in."""


class AcceleratorClassStatus(Reported):
    """What training on these nodes has shown, by the operator's account."""

    measurements: Annotated[
        tuple[Measurement, ...], Field(max_length=64), ListMap(("model", "precision"))
    ] = ()
    """By model and precision, the newest last."""


class AcceleratorClass(Wire):
    """A kind of node: how it is recognised, what it may train, how pods run on it."""

    rules: ClassVar[tuple[Rule, ...]] = (cel.NAME,)
    resource: ClassVar[Resource] = Resource(
        plural="acceleratorclasses",
        short_names=("accel",),
        scope="Cluster",
        columns=(
            Column("GPUs", ".spec.gpusPerNode", "integer", "Accelerators on one node."),
            Column("GiB", ".spec.memoryGiB", "integer", "Memory of one accelerator."),
            Column("Arch", ".spec.cpuArchitecture", description="CPU architecture of the nodes."),
            Column("Trains", ".spec.trains", description="Precisions that it may train in."),
            Column("Fabric", ".spec.fabric.profile", description="Profile of its environment."),
            AGE,
            Column("Image", ".spec.image", description="Trainer image.", priority=1),
        ),
    )

    api_version: str = API_VERSION
    kind: str = "AcceleratorClass"
    metadata: ObjectMeta = ObjectMeta()
    spec: AcceleratorClassSpec
    """What the nodes are."""

    status: AcceleratorClassStatus = AcceleratorClassStatus()
    """What training on them has shown."""
