"""The PyTorchJob of an attempt (kubeflow.org/v1): one of the backends."""

from collections.abc import Mapping

from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_operator import kinds, names, observe
from curriculum_operator.build import gang, grace, meta, pod, run
from curriculum_operator.fabric import rendered

TRAIN = ("python3", "-m", "curriculum_trainer")

_GANG_LABELS = (
    names.CURRICULUM_UID_LABEL,
    names.PHASE_LABEL,
    names.ATTEMPT_LABEL,
    names.ROLE_LABEL,
)


def pytorchjob(
    curriculum: observe.Curriculum,
    phase: Phase,
    kind: AcceleratorClassSpec,
    pool: observe.RentedPool | None,
    *,
    attempt: int,
    nodes: tuple[str, ...],
    progress_url: str,
    site: Mapping[str, str],
) -> meta.Object:
    """The job that trains a phase."""
    name = names.attempt_name(curriculum.name, phase.name, attempt)
    metadata = meta.metadata(
        curriculum, name=name, phase=phase.name, attempt=attempt, role=names.ROLE_TRAIN
    )
    pods = gang.Gang(
        phase=phase,
        kind=kind,
        pool=pool,
        fabric=rendered.render(kind, pool.spec if pool else None, phase, site=site),
        pods=phase.nodes,
        nodes=nodes,
        program=TRAIN,
        config_map=name,
        labels=dict(metadata["labels"]),
        told_apart_by=_GANG_LABELS,
        storage=pod.claims(curriculum.spec.storage),
        grace_seconds=grace.seconds(curriculum.spec.model, kind),
        progress_url=run.progress_url(progress_url, curriculum, phase.name, attempt),
    )
    metadata["annotations"] = gang.annotations(pods)
    if curriculum.spec.queue_name:
        metadata["labels"][names.QUEUE_LABEL] = curriculum.spec.queue_name
    return {
        "apiVersion": kinds.PYTORCHJOBS.api_version,
        "kind": kinds.PYTORCHJOBS.kind,
        "metadata": metadata,
        "spec": gang.spec(pods, policy={}),
    }
