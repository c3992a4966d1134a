"""What the operator reports of a curriculum: written only when something changed."""

from typing import Annotated, Literal

from pydantic import Field

from curriculum_api.wire import Decimal, ListMap, Name, Outcome, Reported, State, Tally

Time = Annotated[str, Field(max_length=40)]
Message = Annotated[str, Field(max_length=1024)]


class Condition(Reported):
    """One observation about the curriculum, in Kubernetes' own form."""

    type: Annotated[str, Field(max_length=63)]
    """What is observed: Ready, Reconciling, Stalled, Suspended, FabricHealthy, Succeeded."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    reason: Annotated[str, Field(min_length=1, max_length=128)]
    """One CamelCase word for programs."""

    message: Message = ""
    """One sentence for people."""

    last_transition_time: Time
    """When the status last changed."""

    observed_generation: Tally = 0
    """Generation of the spec that was observed."""


class JobRef(Reported):
    """The job of the newest attempt."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the job, in the curriculum's namespace."""

    uid: Annotated[str, Field(max_length=64)] = ""
    """UID of the job, once it was seen."""


class Checkpoint(Reported):
    """A verified checkpoint."""

    uri: Annotated[str, Field(max_length=1024)]
    """Its folder below the checkpoints volume."""

    step: Tally
    """Optimizer steps of the phase."""

    tokens: Tally
    """Tokens of the phase."""

    digest: Annotated[str, Field(max_length=128)]
    """Digest of the manifest, which holds a digest per file."""


class Metric(Reported):
    """One figure that the trainer reported."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the figure."""

    value: Annotated[str, Field(max_length=64)]
    """Value as text."""


class Progress(Reported):
    """How far the newest attempt is, in Kubeflow Trainer's shape."""

    progress_percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    """Share of the phase's tokens that is done."""

    estimated_remaining_seconds: Tally | None = None
    """Seconds to the end of the phase, by the speed seen so far."""

    metrics: Annotated[tuple[Metric, ...], Field(max_length=32)] = ()
    """Figures of the last finished step."""

    last_updated_time: Time = ""
    """When the trainer reported them."""


class Result(Reported):
    """What a finished phase came to."""

    world_size: Tally = 0
    """Processes of the last attempt."""

    loss_first: Annotated[str, Field(max_length=32)] = ""
    """Loss of the phase's first step."""

    loss_last: Annotated[str, Field(max_length=32)] = ""
    """Loss of the phase's last step."""

    seconds: Tally = 0
    """Seconds in the training loop, over all attempts."""

    evaluation: Annotated[tuple[Metric, ...], Field(max_length=64)] = ()
    """Figures of the phase's end on held-out text."""


class PhasePlan(Reported):
    """What a phase takes: estimated before it starts, measured once it trains."""

    name: Name
    """Name of the phase."""

    feasible: bool = True
    """Whether the phase can be trained so; where not, nothing is started for it."""

    overridden: bool = False
    """An annotation lets the phase start although it is not feasible."""

    problems: Annotated[tuple[Message, ...], Field(max_length=8)] = ()
    """Why it is not feasible, with what would be."""

    notes: Annotated[tuple[Message, ...], Field(max_length=8)] = ()
    """What else is to be known, and why figures are absent."""

    basis: Annotated[str, Field(max_length=160)] = ""
    """What the figures rest on: `estimate`, `measured on` a class and a model before, or `measured`
    in this very phase; empty where there are none."""

    memory_gib: Annotated[Decimal | None, Field(alias="memoryGiB")] = None
    """Peak memory of one accelerator in GiB."""

    memory_limit_gib: Annotated[Decimal | None, Field(alias="memoryLimitGiB")] = None
    """What one accelerator has, in GiB."""

    tokens_per_second: Decimal | None = None
    """Over all accelerators."""

    hours: Decimal | None = None
    """Hours that the phase is likely to take, or took."""

    hours_least: Decimal | None = None
    """Hours without a failure."""

    hours_most: Decimal | None = None
    """Hours of a bad run."""

    usd: Decimal | None = None
    """US dollars: rent, or what owned nodes and their electricity come to in those hours."""


class Plan(Reported):
    """What the curriculum takes."""

    hours_to_come: Decimal | None = None
    """Likely hours of what is left to do; absent where a phase of it cannot be timed."""

    usd_to_come: Decimal | None = None
    """US dollars of what is left to do, by the same figures."""

    phases: Annotated[tuple[PhasePlan, ...], Field(max_length=16), ListMap(("name",))] = ()
    """Phases by name."""


class PhaseStatus(Reported):
    """Where one phase stands."""

    name: Name
    """Name of the phase."""

    state: State = State.PENDING
    """Where it stands."""

    message: Message = ""
    """Why it stands there; empty where nothing needs saying."""

    attempts: Tally = 0
    """Highest attempt number that was taken."""

    failures: Tally = 0
    """Attempts that count against maxAttempts."""

    preflights: Tally = 0
    """Attempts in a row that ended before their first step for what was measured of their nodes;
    so many do not count against maxAttempts, more do."""

    outcome: Outcome | None = None
    """How the newest ended attempt ended."""

    job_ref: JobRef | None = None
    """The job of the newest attempt."""

    nodes: Annotated[tuple[Annotated[str, Field(max_length=253)], ...], Field(max_length=4096)] = ()
    """Nodes of the newest attempt."""

    claim_time: Time | None = None
    """When the newest attempt's number was taken."""

    formed_time: Time | None = None
    """When all pods of the newest attempt ran."""

    end_time: Time | None = None
    """When the newest attempt ended."""

    retry_time: Time | None = None
    """When the next attempt may start."""

    verifications: Tally = 0
    """Highest number of a verification of this phase."""

    start_time: Time | None = None
    """When the first attempt started."""

    completion_time: Time | None = None
    """When the phase ended."""

    checkpoint: Checkpoint | None = None
    """The verified checkpoint that the next phase starts from."""

    progress: Progress | None = None
    """How far the newest attempt is."""

    result: Result | None = None
    """What the phase came to."""

    gpu_seconds: Tally = 0
    """GPU-seconds of ended attempts, from claim to end."""

    usd: Decimal = "0"
    """Rented money of ended attempts in US dollars."""


class CurriculumStatus(Reported):
    """Where the curriculum stands."""

    observed_generation: Tally = 0
    """Generation of the spec that the rest speaks of."""

    state: State = State.PENDING
    """Where the whole stands."""

    phase: Annotated[str, Field(max_length=80)] = ""
    """The phase at hand and its place, for people."""

    progress: Annotated[str, Field(max_length=8)] = ""
    """Share of the phase's tokens that is done, for people."""

    eta: Annotated[str, Field(max_length=16)] = ""
    """Time to the end of the phase at the speed seen so far, for people."""

    cost: Annotated[str, Field(max_length=24)] = ""
    """Rented money so far, for people."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), ListMap(("type",))] = ()
    """Observations, in Kubernetes' own form."""

    plan: Plan = Plan()
    """What it takes, phase by phase."""

    phases: Annotated[tuple[PhaseStatus, ...], Field(max_length=16), ListMap(("name",))] = ()
    """Phases by name."""
