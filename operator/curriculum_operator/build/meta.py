"""What the metadata of every child says: whose it is, and which attempt's."""

from typing import Any

from curriculum_api.wire import API_VERSION
from curriculum_operator import names, observe

Object = dict[str, Any]


def metadata(
    curriculum: observe.Curriculum, *, name: str, phase: str, attempt: int, role: str
) -> Object:
    """Metadata of a child. Labels and annotations of the curriculum are not copied.

    Argo CD and kubectl keep books in them; on a child they would claim it as theirs.
    """
    return {
        "name": name,
        "namespace": curriculum.namespace,
        "labels": names.attempt_labels(
            curriculum=curriculum.name,
            uid=curriculum.uid,
            phase=phase,
            attempt=attempt,
            role=role,
        ),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": "TrainingCurriculum",
                "name": curriculum.name,
                "uid": curriculum.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
