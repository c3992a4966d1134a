"""The phase contract: `PhaseRun` from the operator to the trainer, `PhaseResult` back.

A `PhaseRun` is the JSON document mounted at `RUN_PATH`. The environment of a training process
carries only what must be environment: rendezvous, and the fabric's NCCL and RoCE variables.
A `PhaseResult` lies beside the checkpoint as `RESULT_FILE`, and stands, cut to
`TERMINATION_MESSAGE_BYTES`, in the termination message of the container that wrote it.
The document is the truth; the exit code only follows it.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from curriculum_api.preflight.figures import Findings, RunPreflight
from curriculum_api.wire import (
    Count,
    Name,
    Objective,
    OptimizerName,
    Outcome,
    Packing,
    Path,
    Precision,
    RopeScaling,
    Schedule,
    Strategy,
    Transport,
    Wire,
)

RUN_PATH = "/etc/curriculum/run.json"
"""Where the PhaseRun is mounted."""

DATA_DIR = "/data"
CHECKPOINTS_DIR = "/checkpoints"
TERMINATION_MESSAGE_PATH = "/dev/termination-log"
TERMINATION_MESSAGE_BYTES = 4096
"""What the kubelet keeps of a termination message."""

RESULT_FILE = "result.json"

NODE_NAME_ENV = "NODE_NAME"
"""The name of the node that a pod is on, from the downward API."""

FABRIC_METRIC = "fabric"
"""The progress metric that says in words what joins the processes."""

SERVER_URL_ENV = "KUBEFLOW_TRAINER_SERVER_URL"
SERVER_CA_ENV = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
SERVER_TOKEN_ENV = "KUBEFLOW_TRAINER_SERVER_TOKEN"
"""Kubeflow Trainer's progress protocol: the URL to POST to, and the token's file."""

EXIT_CODES: dict[Outcome, int] = {
    Outcome.SUCCEEDED: 0,
    Outcome.UNKNOWN: 1,
    Outcome.USER_ERROR: 2,
    Outcome.DATA_ERROR: 3,
    Outcome.CHECKPOINT_ERROR: 4,
    Outcome.OUT_OF_MEMORY: 5,
    Outcome.FABRIC_ERROR: 6,
    Outcome.NON_FINITE: 7,
    Outcome.GATE_FAILED: 8,
    Outcome.HUNG: 9,
    Outcome.NODE_LOST: 10,
    Outcome.PREEMPTED: 75,
}
"""Exit code of a trainer process by outcome; 75 is EX_TEMPFAIL of sysexits.h."""


class RunModel(Wire):
    """The model: a preset's name or a Hugging Face configuration; exactly one."""

    preset: str | None = None
    config: dict[str, Any] | None = None
    weights: Path | None = None
    """A Hugging Face folder below the data folder to start from, in the first phase."""


class RunSource(Wire):
    """One source of the phase's mixture: a folder of token shards below the data folder."""

    source: Path
    weight: Count
    context_length: Count | None = None
    packing: Packing = Packing.SPLIT


class RunOptimizer(Wire):
    """The optimizer; the learning rate and the betas are plain numbers here."""

    name: OptimizerName = OptimizerName.ADAMW
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    schedule: Schedule = Schedule.WSD
    warmup_tokens: int = 0


class RunCheckpoint(Wire):
    """When to save within the phase, and how many complete checkpoints to keep."""

    every_steps: Count | None = None
    every_seconds: Count | None = None
    keep_last: Count = 2
    keep_every: Count | None = None


class RunRope(Wire):
    """Rotary positions from this phase on; what is None stays as the model has it."""

    theta: float | None = None
    scaling: RopeScaling | None = None
    factor: float | None = None
    original_context_length: Count | None = None


class RunMemory(Wire):
    """What is traded for memory."""

    activation_checkpointing: bool = False
    offload_activations: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False
    tile_tokens: Count = 4096
    tiled_mlp: bool = False


class RunEvaluation(Wire):
    """What is measured at the end of the phase."""

    source: Path
    sequences: Count = 16
    needles: int = 0


class RunGate(Wire):
    """What the evaluation must reach; shares as plain numbers."""

    min_needle: float | None = None
    max_perplexity_rise: float | None = None


class RunFabric(Wire):
    """What the phase's nodes are joined by, as its fabric was rendered."""

    profile: str
    transport: Transport
    """What was promised: where it is RDMA, plain sockets are a failure."""


class PhaseRun(Wire):
    """One attempt of one phase, in full: what the trainer needs and nothing else."""

    version: Literal["v1alpha1"] = "v1alpha1"
    namespace: str
    curriculum: Name
    curriculum_uid: str
    phase: Name
    attempt: Count
    objective: Objective
    model: RunModel
    tokenizer: Path
    """The tokenizer's folder below the data folder."""

    data_dir: str = DATA_DIR
    checkpoints_dir: str = CHECKPOINTS_DIR
    """Empty where nodes are measured without a volume."""

    checkpoint_path: Path
    """This phase's folder below `checkpoints_dir`; it holds the curriculum's UID."""

    init_from: str | None = None
    """The verified checkpoint of the phase before, below `checkpoints_dir`; None for the first."""

    init_digest: str | None = None
    """The digest that the verification of `init_from` returned; another is refused."""

    tokens: Count
    context_length: Count
    global_batch_tokens: Count
    """Tokens of one optimizer step over all processes."""

    micro_batch_size: Count = 1
    """Sequences of one forward pass of one data-parallel rank."""

    precision: Precision
    strategy: Strategy
    sequence_parallel: Count = 1
    nodes: Count
    processes_per_node: Count
    fabric: RunFabric | None = None
    """None where nothing is promised: on one's own machine."""

    accelerator_class: str
    allowed_precisions: tuple[Precision, ...]
    """What the accelerator class may train; anything else is refused with the reason."""

    optimizer: RunOptimizer
    checkpoint: RunCheckpoint = RunCheckpoint()
    data: Annotated[tuple[RunSource, ...], Field(min_length=1)]
    dpo_beta: float = 0.1
    rope: tuple[RunRope, ...] = ()
    """What this phase and those before it set, in order; each goes over what it found."""

    memory: RunMemory = RunMemory()
    compile: bool = False
    max_skipped_steps: int = 3
    evaluation: RunEvaluation | None = None
    gate: RunGate | None = None
    preflight: RunPreflight | None = None
    """What is measured before the first step; None where nothing is, or it was a while ago."""

    deadline_seconds: Count | None = None
    """Seconds after the start of this attempt at which it saves and ends as preempted."""

    seed: int = 0
    grace_seconds: Count = 30
    """Seconds between SIGTERM and SIGKILL."""

    @property
    def world_size(self) -> int:
        """Processes over all nodes."""
        return self.nodes * self.processes_per_node

    @property
    def data_parallel(self) -> int:
        """Independent batches: processes over the sequence-parallel degree."""
        return self.world_size // self.sequence_parallel


class CheckpointRef(Wire):
    """One complete checkpoint: where it lies and what it holds."""

    uri: str
    """Its folder below the checkpoints folder."""

    step: int
    """Optimizer steps of the phase that it holds."""

    tokens: int
    """Tokens of the phase that it holds."""

    digest: str
    """`sha256:<hex>` of the manifest, which holds a digest per file."""


class PhaseResult(Wire):
    """How one attempt ended, by the trainer's or the verifier's own account."""

    version: Literal["v1alpha1"] = "v1alpha1"
    outcome: Outcome
    message: str = ""
    """One line: what, where, which value, what to do; empty where it succeeded."""

    phase: str
    attempt: int
    step: int = 0
    """Optimizer steps of the phase done so far, over all attempts."""

    tokens: int = 0
    """Tokens of the phase trained on so far, over all attempts."""

    checkpoint: CheckpointRef | None = None
    loss_first: float | None = None
    """Loss of the phase's first step, kept over attempts."""

    loss_last: float | None = None
    seconds: float = 0.0
    """Seconds in the training loop, over all attempts."""

    world_size: int = 0
    preflight: Findings | None = None
    """Nodes and pairs that ended the attempt before its first step; None where none did."""

    metrics: dict[str, float] = {}
    """The last step's metrics, with torchtitan's keys."""

    evaluation: dict[str, float] = {}
    """Figures of the phase's end: `perplexity`, `perplexity_before`, `needle`, and each by bucket
    of position or length, for example `perplexity/512-1024` and `needle/4096`."""
