"""Objects for the edge's tests, as the API gives them, each with what a test cares about."""

from typing import Any

from curriculum_api.v1alpha1.status import CurriculumStatus
from curriculum_operator import names, observe, project
from curriculum_operator.build.meta import Object
from curriculum_operator.cluster import PYTORCHJOBS, Raw
from curriculum_operator.decision import Event
from curriculum_operator.step import Delete, Step

UID = "cur-uid"


def curriculum(name: str = "tiny", *, version: int = 100, uid: str = UID, **status: Any) -> Raw:
    """A curriculum of one phase."""
    return {
        "apiVersion": "curriculum.dev/v1alpha1",
        "kind": "TrainingCurriculum",
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": uid,
            "generation": 1,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "model": {"preset": "tiny-4m"},
            "tokenizer": {"path": "tokenizer"},
            "storage": {
                "data": {"claimName": "corpus"},
                "checkpoints": {"claimName": "checkpoints"},
            },
            "phases": [
                {
                    "name": "math",
                    "acceleratorClass": "gb10-sm121",
                    "nodes": 2,
                    "tokens": 1000,
                    "contextLength": 256,
                    "optimizer": {"learningRate": "3e-4"},
                    "data": [{"source": "web"}],
                }
            ],
        },
        "status": status,
    }


def subject(**given: Any) -> observe.Curriculum:
    """The same, as it is read."""
    return project.curriculum(curriculum(**given))


def job(
    attempt: int = 1,
    *,
    owner: str = UID,
    phase: str = "math",
    labelled: int | None = None,
    deleting: bool = False,
) -> Object:
    """An attempt's job; `labelled` is the attempt that its label says."""
    labels = names.attempt_labels(
        curriculum="tiny",
        uid=owner,
        phase=phase,
        attempt=attempt if labelled is None else labelled,
        role=names.ROLE_TRAIN,
    )
    meta: Raw = {
        "name": names.attempt_name("tiny", phase, attempt),
        "namespace": "ns",
        "labels": labels,
        "annotations": {names.NODES_ANNOTATION: "a,b", names.GPUS_ANNOTATION: "nvidia.com/gpu=1"},
        "ownerReferences": [{"uid": owner}],
    }
    if deleting:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {"apiVersion": PYTORCHJOBS.api_version, "kind": PYTORCHJOBS.kind, "metadata": meta}


def step(
    *creates: Object,
    status: dict[str, Any] | None = None,
    deletes: tuple[Delete, ...] = (),
    events: tuple[Event, ...] = (),
    assume: observe.Assumed | None = None,
    wake_after: float | None = None,
) -> Step:
    """A step that a test made up."""
    return Step(
        rule="made_up",
        status=CurriculumStatus.model_validate(status or {}),
        creates=creates,
        deletes=deletes,
        events=events,
        assume=assume,
        wake_after=wake_after,
    )


def claimed(attempt: int = 1) -> dict[str, Any]:
    """A status in which an attempt was claimed."""
    phase = {
        "name": "math",
        "state": "Waiting",
        "attempts": attempt,
        "claimTime": "2026-01-01T00:00:00Z",
    }
    return {"state": "Waiting", "phases": [phase]}


def assumed(attempt: int = 1) -> observe.Assumed:
    """What a start holds before its job is seen."""
    return observe.Assumed(
        curriculum_uid=UID,
        phase="math",
        attempt=attempt,
        pool=None,
        nodes=("a", "b"),
        gpu_resource="nvidia.com/gpu",
        gpus_per_node=1,
    )
