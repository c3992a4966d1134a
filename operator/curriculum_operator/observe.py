"""What the operator knows: small frozen values, and the world they make up.

`project.py` turns API objects into these values as they arrive; nothing here reads an API object,
a clock or a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite

from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec, Measurement
from curriculum_api.v1alpha1.curriculum import CurriculumSpec, Phase
from curriculum_api.v1alpha1.rented_pool import RentedPoolSpec
from curriculum_api.v1alpha1.status import CurriculumStatus, PhaseStatus
from curriculum_api.wire import State

Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient the operator is; all durations in seconds."""

    node_grace_seconds: float = 60
    """A node that is not Ready for this long is treated as gone."""

    form_seconds: float = 600
    """A gang that is not whole this long after its claim is queued again."""

    settle_seconds: float = 45
    """After a first bad end, how long the other pods may take to end by themselves."""

    retry_base_seconds: float = 10
    retry_max_seconds: float = 300
    """The pause after the n-th failure: base times 2 to the n-1, at most max."""

    progress_url: str = "http://curriculum-operator:8090"
    """Where trainers report to."""


@dataclass(frozen=True, slots=True)
class Curriculum:
    """A TrainingCurriculum as it was read."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    created: datetime
    deleting: bool
    spec: CurriculumSpec
    status: CurriculumStatus
    plan_overrides: frozenset[str] = frozenset()
    """Phases that start whatever their plan says."""

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)

    def phase_status(self, name: str) -> PhaseStatus:
        """The status of a phase; a fresh one where none was written."""
        for phase in self.status.phases:
            if phase.name == name:
                return phase
        return PhaseStatus(name=name)

    def current(self) -> tuple[int, Phase, PhaseStatus] | None:
        """The first phase that has not succeeded: its place from 0, spec and status."""
        for index, phase in enumerate(self.spec.phases):
            status = self.phase_status(phase.name)
            if status.state is not State.SUCCEEDED:
                return index, phase, status
        return None


@dataclass(frozen=True, slots=True)
class Child:
    """What every child says of itself: its name, and which attempt it belongs to."""

    namespace: str
    name: str
    uid: str
    curriculum_uid: str
    phase: str
    attempt: int
    created: datetime
    deleting: bool


@dataclass(frozen=True, slots=True)
class Job(Child):
    """The PyTorchJob of an attempt."""

    succeeded: bool
    failed: bool
    message: str
    nodes: tuple[str, ...]
    gpu_resource: str
    gpus_per_node: int
    ended: datetime | None = None
    """When it succeeded or failed."""

    @property
    def finished(self) -> bool:
        return self.succeeded or self.failed


@dataclass(frozen=True, slots=True)
class Verification(Child):
    """The Job that verifies an attempt's checkpoint."""

    succeeded: bool
    failed: bool
    message: str

    @property
    def finished(self) -> bool:
        return self.succeeded or self.failed


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended."""

    exit_code: int
    reason: str
    message: str
    finished: datetime


@dataclass(frozen=True, slots=True)
class Pod(Child):
    """A pod of an attempt or of its verification."""

    role: str
    replica: str
    """`master-0`, `worker-3`; empty for a verification."""

    node: str
    running: bool
    """Its main container runs."""

    finished: bool
    """Its containers have ended, or it never had any and never will."""

    ended: Ended | None
    """How its main container ended."""

    disrupted: bool
    """The cluster ended it: preemption, eviction, drain, node shutdown."""

    trouble: str
    """Why it does not run yet, for people: an image that cannot be pulled, no node."""

    extended: tuple[tuple[str, int], ...]
    """Extended resources that it holds, by name."""


@dataclass(frozen=True, slots=True)
class Occupant:
    """Anybody's pod that holds extended resources of a node."""

    node: str
    extended: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster."""

    name: str
    labels: Mapping[str, str]
    ready: bool
    ready_changed: datetime | None
    """When Ready last changed."""

    unschedulable: bool
    taints: tuple[Taint, ...]
    extended: tuple[tuple[str, int], ...]
    """Allocatable extended resources, by name."""

    annotations: Mapping[str, str] = field(default_factory=dict)
    """Those of our own prefix."""

    boot_id: str = ""
    """Of the kernel that runs now."""

    memory_bytes: int = 0
    """The machine's memory; 0 where it does not say."""

    resource_version: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim."""

    namespace: str
    name: str
    access_modes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AcceleratorClass:
    """An AcceleratorClass."""

    name: str
    spec: AcceleratorClassSpec
    measurements: tuple[Measurement, ...] = ()
    """What training on its nodes was measured to reach."""


@dataclass(frozen=True, slots=True)
class RentedPool:
    """A RentedPool."""

    name: str
    spec: RentedPoolSpec


@dataclass(frozen=True, slots=True)
class Beat:
    """A trainer's report of a finished step."""

    received: datetime
    percentage: int | None
    remaining_seconds: int | None
    metrics: tuple[tuple[str, str], ...]

    def metric(self, name: str) -> float | None:
        """A metric as a finite number; None where it is absent or is none."""
        for key, value in self.metrics:
            if key == name:
                try:
                    number = float(value)
                except ValueError:
                    return None
                return number if isfinite(number) else None
        return None


@dataclass(frozen=True, slots=True)
class Assumed:
    """A start that was decided and is not yet seen in a watch: it holds its nodes already."""

    curriculum_uid: str
    phase: str
    attempt: int
    pool: str | None
    nodes: tuple[str, ...]
    gpu_resource: str
    gpus_per_node: int


AttemptKey = tuple[str, str, int]
"""Curriculum UID, phase, attempt."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything that is known at one moment. Children are grouped by their curriculum's UID."""

    curricula: Mapping[str, Curriculum]
    """By UID."""

    classes: Mapping[str, AcceleratorClass]
    pools: Mapping[str, RentedPool]
    profiles: Mapping[str, str]
    """The site's own fabric profiles: their texts by name."""

    nodes: Mapping[str, Node]
    claims: Mapping[Key, Claim]
    jobs: Mapping[str, Sequence[Job]]
    verifications: Mapping[str, Sequence[Verification]]
    pods: Mapping[str, Sequence[Pod]]
    occupants: Mapping[Key, Occupant]
    """Unfinished pods that hold extended resources and are not ours."""

    beats: Mapping[AttemptKey, Beat]
    assumed: Mapping[AttemptKey, Assumed]
    clashes: Mapping[AttemptKey, str]
    """Attempts whose object could not be made because its name is another's: the reason."""

    listening_since: datetime
    """Since when this operator hears heartbeats."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What bears on one curriculum's next step."""

    curriculum: Curriculum
    jobs: tuple[Job, ...]
    verifications: tuple[Verification, ...]
    pods: tuple[Pod, ...]
    world: World
    policy: Policy

    def job(self, phase: str, attempt: int) -> Job | None:
        """The job of an attempt."""
        for job in self.jobs:
            if (job.phase, job.attempt) == (phase, attempt):
                return job
        return None

    def verification(self, phase: str, attempt: int) -> Verification | None:
        """The verification of an attempt."""
        for verification in self.verifications:
            if (verification.phase, verification.attempt) == (phase, attempt):
                return verification
        return None

    def attempt_pods(self, phase: str, attempt: int, role: str) -> tuple[Pod, ...]:
        """The pods of an attempt, or of its verification."""
        return tuple(
            pod for pod in self.pods if (pod.phase, pod.attempt, pod.role) == (phase, attempt, role)
        )

    def attempt_key(self, phase: str, attempt: int) -> AttemptKey:
        return (self.curriculum.uid, phase, attempt)


def observe(curriculum: Curriculum, world: World, policy: Policy) -> Observed:
    """Gather what bears on `curriculum`."""
    return Observed(
        curriculum=curriculum,
        jobs=tuple(world.jobs.get(curriculum.uid, ())),
        verifications=tuple(world.verifications.get(curriculum.uid, ())),
        pods=tuple(world.pods.get(curriculum.uid, ())),
        world=world,
        policy=policy,
    )
