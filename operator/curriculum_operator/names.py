"""Every label, annotation, object name, condition type and reason, each in one place.

Names of children are built here and nowhere else.
"""

from typing import Final

PREFIX: Final = "curriculum.dev"
FIELD_MANAGER: Final = "curriculum-operator"

# Labels on every child.
CURRICULUM_LABEL: Final = f"{PREFIX}/curriculum"
CURRICULUM_UID_LABEL: Final = f"{PREFIX}/curriculum-uid"
PHASE_LABEL: Final = f"{PREFIX}/phase"
ATTEMPT_LABEL: Final = f"{PREFIX}/attempt"
ROLE_LABEL: Final = f"{PREFIX}/role"
"""`train` or `verify`."""

ROLE_TRAIN: Final = "train"
ROLE_VERIFY: Final = "verify"

MEASUREMENT_LABEL: Final = f"{PREFIX}/measurement"
"""On what `curriculum doctor` makes to measure nodes, and on nothing that counts as an attempt."""

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
DOCTOR: Final = "curriculum-doctor"

# Labels on nodes.
CLASS_LABEL: Final = f"{PREFIX}/accelerator-class"
MANAGED_LABEL: Final = f"{PREFIX}/managed"
"""`false` on a node means: its class label is an administrator's own."""

GPU_MAJOR_LABEL: Final = "nvidia.com/gpu.compute.major"
GPU_MINOR_LABEL: Final = "nvidia.com/gpu.compute.minor"
GPU_PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
GPU_MACHINE_LABEL: Final = "nvidia.com/gpu.machine"
"""The machine's DMI product name, for example NVIDIA_DGX_Spark."""

GPU_MEMORY_LABEL: Final = "nvidia.com/gpu.memory"
"""MiB of one GPU; absent where CPU and GPU share one memory."""

ARCH_LABEL: Final = "kubernetes.io/arch"
HOSTNAME_LABEL: Final = "kubernetes.io/hostname"
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"

# Labels that the training-operator puts on the pods of a PyTorchJob.
REPLICA_TYPE_LABEL: Final = "training.kubeflow.org/replica-type"
REPLICA_INDEX_LABEL: Final = "training.kubeflow.org/replica-index"

QUARANTINED_LABEL: Final = f"{PREFIX}/quarantined"
"""On a node that is kept from use: the check that it fell short by."""

QUARANTINE_TAINT: Final = f"{PREFIX}/quarantine"
"""Keeps pods from a node that fell short; its value is the check."""

UNSCHEDULABLE_TAINT: Final = "node.kubernetes.io/unschedulable"
"""Kubernetes' own, on a node that was cordoned."""

# Annotations on nodes.
PREFLIGHT_ANNOTATION: Final = f"{PREFIX}/preflight"
"""What was measured of the node last, as JSON."""

QUARANTINE_ANNOTATION: Final = f"{PREFIX}/quarantine"
"""Why the node is kept from use, since when and until when, as JSON."""

CLASS_REASON_ANNOTATION: Final = f"{PREFIX}/accelerator-class-reason"
"""Why the node has its class, or none, in one line."""

# Annotations on a PyTorchJob.
NODES_ANNOTATION: Final = f"{PREFIX}/nodes"
"""The nodes that admission picked, comma-separated: what the gang holds before it has pods."""

GPUS_ANNOTATION: Final = f"{PREFIX}/gpus-per-node"
FABRIC_ANNOTATION: Final = f"{PREFIX}/fabric"
"""The profile of the pods' fabric."""

FABRIC_DIGEST_ANNOTATION: Final = f"{PREFIX}/fabric-digest"
"""Changes with whatever the profile gives the pods."""

# Annotation on a curriculum.
OVERRIDE_PLAN_ANNOTATION: Final = f"{PREFIX}/override-plan"
"""Phases that start although their plan is not feasible: names with commas between, or `*`."""

PROGRESS_AUDIENCE: Final = f"{PREFIX}/progress"
"""Audience of the token that a trainer reports its progress with: it opens nothing else."""

# Condition types.
READY: Final = "Ready"
RECONCILING: Final = "Reconciling"
STALLED: Final = "Stalled"
SUSPENDED: Final = "Suspended"
SUCCEEDED: Final = "Succeeded"
FABRIC_HEALTHY: Final = "FabricHealthy"

# Reasons of conditions and events: CamelCase, with the case in which each applies.
ACCEPTED: Final = "Accepted"
"""The spec is valid and the curriculum is being driven."""

INVALID_SPEC: Final = "InvalidSpec"
"""The spec names something that is not there, or asks for what the class cannot do."""

NOT_FEASIBLE: Final = "NotFeasible"
"""By its plan a phase cannot be trained as it is written: it does not fit, or does not divide."""

PLAN_OVERRIDDEN: Final = "PlanOverridden"
"""A phase was started although its plan is not feasible, because an annotation says so."""

NAME_TAKEN: Final = "NameTaken"
"""An object of a child's name exists and is not this curriculum's."""

ATTEMPTS_EXHAUSTED: Final = "AttemptsExhausted"
"""A phase failed as often as it may."""

CHECKPOINT_REFUSED: Final = "CheckpointRefused"
"""A phase's checkpoint did not pass its verification."""

GATE_FAILED: Final = "GateFailed"
"""A phase's gate was not met."""

WAITING_FOR_NODES: Final = "WaitingForNodes"
"""The gang does not fit on Ready, schedulable nodes of its class."""

BACKING_OFF: Final = "BackingOff"
"""An attempt failed; the next one starts after a pause."""

WAITING_FOR_PODS: Final = "WaitingForPods"
"""Pods of the attempt before are still there."""

PHASE_STARTED: Final = "PhaseStarted"
"""An attempt was claimed and its job created."""

PHASE_RUNNING: Final = "PhaseRunning"
"""All pods of an attempt run."""

PHASE_VERIFYING: Final = "PhaseVerifying"
"""An attempt ended well; its checkpoint is being verified."""

PHASE_SUCCEEDED: Final = "PhaseSucceeded"
"""A phase's checkpoint was verified."""

PHASE_FAILED: Final = "PhaseFailed"
"""A phase will not be tried again."""

ATTEMPT_FAILED: Final = "AttemptFailed"
"""An attempt ended badly; another follows if any are left."""

ATTEMPT_PREEMPTED: Final = "AttemptPreempted"
"""An attempt was ended from outside; it does not count."""

PREFLIGHT_FAILED: Final = "PreflightFailed"
"""A node or a pair was not good enough to start on; the attempt does not count."""

NODE_QUARANTINED: Final = "NodeQuarantined"
"""A node fell short in a preflight and is kept from use for a while."""

QUARANTINE_ENDED: Final = "QuarantineEnded"
"""A node's quarantine is over; it is measured before it is used again."""

GANG_NOT_FORMED: Final = "GangNotFormed"
"""An attempt's pods did not all run in time; it is queued again and does not count."""

RUN_SUSPENDED: Final = "Suspended"
"""The curriculum is suspended and holds no job."""

SUSPENDING: Final = "Suspending"
"""The curriculum's job is being ended after a checkpoint."""

NOT_SUSPENDED: Final = "NotSuspended"
"""spec.suspend is false."""

CURRICULUM_SUCCEEDED: Final = "CurriculumSucceeded"
"""All phases have a verified checkpoint."""

CURRICULUM_FAILED: Final = "CurriculumFailed"
"""A phase failed for good."""

IN_PROGRESS: Final = "InProgress"
"""Phases are left to do."""

PROGRESSING: Final = "Progressing"
"""Nothing stands in the way."""

CLASS_CONFLICT: Final = "ClassConflict"
"""Several accelerator classes claim a node by equally strong evidence; it has none."""

FABRIC_PROVEN: Final = "FabricProven"
"""A phase's processes have met, and said over what."""

FABRIC_FAILED: Final = "FabricFailed"
"""An attempt ended for what joins its processes; none has met since."""

FABRIC_UNPROVEN: Final = "FabricUnproven"
"""No phase's processes have met yet."""

OBSERVED: Final = "Observed"
"""The newest spec was read."""


def attempt_name(curriculum: str, phase: str, attempt: int) -> str:
    """Name of an attempt's PyTorchJob and ConfigMap."""
    return f"{curriculum}-{phase}-{attempt}"


def verification_name(curriculum: str, phase: str, attempt: int) -> str:
    """Name of the Job that verifies an attempt's checkpoint."""
    return f"{attempt_name(curriculum, phase, attempt)}-verify"


def pod_name(job: str, replica: str) -> str:
    """Name that the training-operator gives a pod, for example of `worker-0`."""
    return f"{job}-{replica}"


def attempt_labels(
    *, curriculum: str, uid: str, phase: str, attempt: int, role: str
) -> dict[str, str]:
    """Labels of a child: whose it is, and which attempt's."""
    return {
        CURRICULUM_LABEL: curriculum,
        CURRICULUM_UID_LABEL: uid,
        PHASE_LABEL: phase,
        ATTEMPT_LABEL: str(attempt),
        ROLE_LABEL: role,
    }


def checkpoint_path(namespace: str, curriculum: str, uid: str, phase: str) -> str:
    """A phase's folder below the checkpoints volume; the UID keeps namesakes apart."""
    return f"{namespace}/{curriculum}-{uid}/{phase}"
