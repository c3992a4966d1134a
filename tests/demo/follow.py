"""What the cluster says of a running curriculum, as small values. Reads only."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.cluster.cluster import Cluster

CURRICULUM_LABEL: Final = "curriculum.dev/curriculum"
PHASE_LABEL: Final = "curriculum.dev/phase"
ATTEMPT_LABEL: Final = "curriculum.dev/attempt"
ROLE_LABEL: Final = "curriculum.dev/role"
REPLICA_LABEL: Final = "training.kubeflow.org/replica-type"


@dataclass(frozen=True, slots=True)
class Training:
    """One pod that trained, or trains."""

    name: str
    phase: str
    attempt: int
    node: str
    leads: bool
    """The gang's first process writes its log."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The curriculum and its training pods at one moment."""

    curriculum: Mapping[str, Any]
    pods: tuple[Training, ...]

    @property
    def status(self) -> Mapping[str, Any]:
        """The curriculum's status; empty until the operator has seen it."""
        found: Mapping[str, Any] = self.curriculum.get("status") or {}
        return found

    @property
    def phases(self) -> list[Mapping[str, Any]]:
        """The status of each phase, in order."""
        return list(self.status.get("phases") or [])

    @property
    def state(self) -> str:
        """Where the whole stands."""
        return str(self.status.get("state") or "Pending")

    def after(self, earlier: "Snapshot") -> "Snapshot":
        """With the pods that were there earlier: those that still ran at a job's end are gone."""
        pods = {(pod.name, pod.attempt): pod for pod in earlier.pods}
        for pod in self.pods:
            if pod.node:
                pods[pod.name, pod.attempt] = pod
        return Snapshot(self.curriculum, tuple(pods.values()))

    def condition(self, kind: str) -> Mapping[str, Any]:
        """A condition by type; empty where there is none."""
        for found in self.status.get("conditions") or []:
            if found["type"] == kind:
                return dict(found)
        return {}


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a trainer's log: an optimizer step."""

    step: int
    tokens: int
    """Tokens of the phase so far."""

    loss: float


def look(cluster: Cluster, namespace: str, name: str) -> Snapshot:
    """The curriculum now."""
    found = cluster.get("trainingcurricula,pods", f"--namespace={namespace}")["items"]
    curriculum: dict[str, Any] = next(
        (
            each
            for each in found
            if each["kind"] == "TrainingCurriculum" and each["metadata"]["name"] == name
        ),
        {},
    )
    pods = [_training(each) for each in found if _trains(each, name)]
    return Snapshot(curriculum, tuple(sorted(pods, key=lambda pod: (pod.attempt, pod.name))))


def steps(cluster: Cluster, namespace: str, pod: str) -> list[Step]:
    """The optimizer steps that a pod's log tells of; none where the pod is gone, and its log."""
    log = cluster.kubectl(
        "logs", pod, f"--namespace={namespace}", "--container=pytorch", check=False
    )
    return [step for step in map(_step, log.splitlines()) if step]


def _step(line: str) -> Step | None:
    if not line.startswith("{"):
        return None
    try:
        said = json.loads(line)
        step = Step(int(said["step"]), int(said["tokens"]), float(said["loss"]))
    except (ValueError, KeyError, TypeError):
        return None
    return step if math.isfinite(step.loss) else None


def _trains(each: Mapping[str, Any], curriculum: str) -> bool:
    labels = each["metadata"].get("labels") or {}
    return bool(
        each["kind"] == "Pod"
        and labels.get(CURRICULUM_LABEL) == curriculum
        and labels.get(ROLE_LABEL) == "train"
    )


def _training(each: Mapping[str, Any]) -> Training:
    labels = each["metadata"]["labels"]
    return Training(
        name=each["metadata"]["name"],
        phase=labels[PHASE_LABEL],
        attempt=int(labels[ATTEMPT_LABEL]),
        node=each["spec"].get("nodeName", ""),
        leads=labels.get(REPLICA_LABEL) == "master",
    )
