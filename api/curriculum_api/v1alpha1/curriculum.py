"""TrainingCurriculum: the model, the data and the phases, as users write them."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from curriculum_api.v1alpha1 import cel
from curriculum_api.v1alpha1.meta import AGE, ObjectMeta
from curriculum_api.v1alpha1.pod import EnvVar, FreeForm, PodTemplate
from curriculum_api.v1alpha1.status import CurriculumStatus
from curriculum_api.wire import (
    API_VERSION,
    Backend,
    Column,
    Count,
    Decimal,
    ListMap,
    Name,
    Objective,
    OptimizerName,
    Packing,
    Path,
    Precision,
    Resource,
    RopeScaling,
    Rule,
    Schedule,
    Strategy,
    Wire,
)

MAX_PHASES = 16


class Model(Wire):
    """The model that all phases train: a preset or a Hugging Face configuration, exactly one."""

    rules: ClassVar[tuple[Rule, ...]] = cel.MODEL

    preset: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Name of a built-in model configuration, for example llama-3.1-8b."""

    config: FreeForm | None = None
    """Hugging Face model configuration with its `model_type`, kept as it is."""

    weights: Path | None = None
    """Hugging Face folder below the data volume whose weights the first phase starts from."""


class Tokenizer(Wire):
    """The tokenizer that the data was prepared with."""

    path: Path
    """Folder below the data volume."""


class DataStorage(Wire):
    """Where the prepared data lies."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253)]
    """PersistentVolumeClaim in the curriculum's namespace; ReadOnlyMany or ReadWriteMany."""


class CheckpointStorage(Wire):
    """Where checkpoints go."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253)]
    """PersistentVolumeClaim in the curriculum's namespace; ReadWriteMany."""


class Storage(Wire):
    """The volumes of all phases."""

    data: DataStorage
    """The prepared data, read by every phase."""

    checkpoints: CheckpointStorage
    """The checkpoints, written by every phase."""


class Optimizer(Wire):
    """How a phase's weights are updated."""

    name: OptimizerName = OptimizerName.ADAMW
    """AdamW keeps its two moments in FP32 (8 bytes a parameter), AdamW8bit in 8 bits (2 bytes),
    AdamW4bit in 4 bits (1 byte)."""

    learning_rate: Decimal
    """Peak learning rate, a decimal as text."""

    beta1: Decimal = "0.9"
    """Decay of the first moment."""

    beta2: Decimal = "0.95"
    """Decay of the second moment."""

    weight_decay: Decimal = "0.1"
    """Decoupled weight decay."""

    clip_norm: Decimal = "1.0"
    """Gradients are scaled down to this global norm."""

    schedule: Schedule = Schedule.WSD
    """Shape of the learning rate over the phase's tokens."""

    warmup_tokens: Annotated[int, Field(ge=0, le=2**53 - 1)] = 0
    """Tokens over which the learning rate rises from zero."""


class DataSource(Wire):
    """One source of a phase's mixture."""

    source: Path
    """Folder of token shards below the data volume."""

    weight: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Share of the mixture, relative to the other sources."""

    context_length: Count | None = None
    """Length of this source's samples in tokens; the phase's own where absent."""

    packing: Packing = Packing.SPLIT
    """Split joins documents and cuts anywhere; Whole cuts none that fits, and pads the rest."""


class Checkpointing(Wire):
    """When a phase saves, beside its end."""

    every_steps: Count | None = None
    """Save after this many optimizer steps."""

    every_seconds: Count | None = None
    """Save when this many seconds have passed since the last save."""

    keep_last: Annotated[int, Field(ge=1, le=1000)] = 2
    """Complete checkpoints of this phase that are kept."""

    keep_every: Count | None = None
    """Keep besides those every checkpoint whose step is a multiple of this number."""


class Rope(Wire):
    """Rotary positions from this phase on; what is absent stays as the model has it."""

    theta: Decimal | None = None
    """Base of the rotary frequencies, a decimal as text, for example 500000."""

    scaling: RopeScaling | None = None
    """None, Linear interpolation or YaRN."""

    factor: Decimal | None = None
    """Context length over the one that the model was trained at; Linear and YaRN need it."""

    original_context_length: Count | None = None
    """Context length that the model was trained at; YaRN needs it."""


class Memory(Wire):
    """What is traded for memory: time, or the host's memory."""

    activation_checkpointing: bool = False
    """Keep only each block's input and compute the rest again: about a third more work."""

    offload_activations: bool = False
    """Keep those inputs in the host's memory; needs activationCheckpointing."""

    offload_optimizer: bool = False
    """Keep optimizer states in the host's memory; ZeRO only, useless on unified memory."""

    offload_parameters: bool = False
    """Keep weights in the host's memory as well; ZeRO3 only."""

    tile_tokens: Count = 4096
    """Tokens whose logits exist at once; longer sequences are scored in tiles of this many."""

    tiled_mlp: Annotated[bool, Field(alias="tiledMLP")] = False
    """Compute the MLPs in such tiles as well."""


class Evaluation(Wire):
    """What is measured at the end of the phase, on text that it was not trained on."""

    source: Path
    """Folder of token shards below the data volume, held out from every phase."""

    sequences: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Sequences of the phase's context length whose perplexity is measured."""

    needles: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Needle-in-a-haystack questions, spread over depths, at the phase's context length."""


class Gate(Wire):
    """What the evaluation must reach; otherwise the curriculum stops with the figures."""

    min_needle: Decimal | None = None
    """Least share of the needles that must be found, a decimal between 0 and 1 as text."""

    max_perplexity_rise: Decimal | None = None
    """Most that the held-out perplexity may rise over the phase, as a share: "0.02" is 2 %."""


class Phase(Wire):
    """One stage of the curriculum; it becomes one job per attempt."""

    rules: ClassVar[tuple[Rule, ...]] = cel.PHASE

    name: Annotated[
        str, Field(min_length=1, max_length=30, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    ]
    """Name of the phase, part of its jobs' names."""

    objective: Objective = Objective.PRETRAIN
    """What the phase optimises."""

    accelerator_class: Name
    """AcceleratorClass of the nodes that it runs on."""

    pool: Name | None = None
    """RentedPool that its nodes come from; owned nodes where absent."""

    nodes: Annotated[int, Field(ge=1, le=4096), cel.NODES]
    """Nodes that the phase runs on, all at once."""

    gpus_per_node: Annotated[int, Field(ge=1, le=64)] | None = None
    """Accelerators on each node, one process each; all that the class has where absent."""

    tokens: Annotated[Count, cel.TOKENS]
    """Tokens that the phase trains on."""

    context_length: Count
    """Sequence length in tokens."""

    precision: Precision = Precision.BF16
    """Number format of the matrix multiplications."""

    strategy: Strategy = Strategy.DDP
    """How weights, gradients and optimizer states are spread over processes."""

    sequence_parallel: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes that share one sequence; divides the context length and the process count."""

    optimizer: Optimizer
    """How the weights are updated."""

    global_batch_tokens: Count | None = None
    """Tokens of one optimizer step; one sequence per data-parallel rank where absent."""

    micro_batch_size: Annotated[int, Field(ge=1, le=65536)] = 1
    """Sequences of one forward pass."""

    data: Annotated[tuple[DataSource, ...], Field(min_length=1, max_length=64)]
    """Sources of the mixture."""

    rope: Rope | None = None
    """Rotary positions from this phase on; as the model has them where absent."""

    memory: Memory = Memory()
    """What is traded for memory."""

    compile: bool = False
    """Compile the model's blocks with torch.compile; the first step takes minutes longer."""

    max_skipped_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 3
    """Steps with a non-finite loss or gradient that an attempt may skip before it fails."""

    evaluation: Evaluation | None = None
    """What is measured at the end of the phase; nothing where absent."""

    gate: Gate | None = None
    """What the evaluation must reach before the next phase starts."""

    dpo_beta: Decimal = "0.1"
    """Strength of the pull towards the reference model; objective DPO only."""

    checkpoint: Checkpointing = Checkpointing()
    """When the phase saves, beside its end."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Attempts before the phase fails; preempted and suspended ones do not count."""

    heartbeat_seconds: Annotated[int, Field(ge=10, le=86400)] = 600
    """Seconds without a finished step after which an attempt is hung; slow steps add to it, and
    the first one may take two minutes."""

    active_deadline_seconds: Count | None = None
    """Seconds that one attempt may run."""

    env: Annotated[tuple[EnvVar, ...], Field(max_length=64), ListMap(("name",))] = ()
    """Environment added to the training container."""

    pod_template: PodTemplate = PodTemplate()
    """What is added to the phase's pods."""


class CurriculumSpec(Wire):
    """What is wanted."""

    model: Model
    """The model that all phases train."""

    tokenizer: Tokenizer
    """The tokenizer that the data was prepared with."""

    storage: Storage
    """The volumes of all phases."""

    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    """Order among curricula that want the same nodes; higher goes first."""

    suspend: bool = False
    """True saves a checkpoint, deletes the running job and holds the curriculum."""

    backend: Backend = Backend.PYTORCHJOB
    """Kind of job that a phase becomes."""

    queue_name: Name | None = None
    """Kueue LocalQueue that admits the jobs; the operator admits whole gangs where absent."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of weights and data order."""

    phases: Annotated[
        tuple[Phase, ...],
        Field(min_length=1, max_length=MAX_PHASES),
        ListMap(("name",)),
        cel.SOME_PHASE,
        cel.UNIQUE_NAMES,
    ]
    """Phases in the order that they run."""


class TrainingCurriculum(Wire):
    """A model trained through phases, each on the nodes that suit it."""

    rules: ClassVar[tuple[Rule, ...]] = cel.curriculum(MAX_PHASES)
    resource: ClassVar[Resource] = Resource(
        plural="trainingcurricula",
        short_names=("tcur",),
        scope="Namespaced",
        columns=(
            Column("Phase", ".status.phase", description="The phase at hand and its place."),
            Column("State", ".status.state", description="Where the whole stands."),
            Column("Progress", ".status.progress", description="Share of the phase that is done."),
            Column("ETA", ".status.eta", description="Time to the end of the phase."),
            Column("Cost", ".status.cost", description="Rented money so far."),
            AGE,
            Column(
                "Waits",
                '.status.phases[?(@.state=="Waiting")].message',
                description="What a waiting phase waits for.",
                priority=1,
            ),
            Column(
                "Reason",
                '.status.conditions[?(@.type=="Stalled")].reason',
                description="Why it cannot go on without a person, or Progressing.",
                priority=1,
            ),
        ),
        selectable=(".spec.queueName", ".status.state"),
    )

    api_version: str = API_VERSION
    kind: str = "TrainingCurriculum"
    metadata: ObjectMeta = ObjectMeta()
    spec: CurriculumSpec
    """What is wanted."""

    status: CurriculumStatus = CurriculumStatus()
    """Where it stands, by the operator's account."""

    @field_validator("status", mode="before")
    @classmethod
    def _absent(cls, status: Any) -> Any:
        """Read null as absent: some clients write what they do not know as null."""
        return {} if status is None else status
