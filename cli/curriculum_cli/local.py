"""A phase on this machine instead of its nodes: the operator's own run, placed anew. Pure.

What the phase trains stays: model, data, tokens, context, global batch, strategy. Only how many
processes share the work changes; gradient accumulation makes up for the rest.
"""

import math
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from curriculum_api.run import CheckpointRef, PhaseRun
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec, MatchRule
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.v1alpha1.fabric import Fabric
from curriculum_api.v1alpha1.status import Checkpoint, CurriculumStatus, PhaseStatus
from curriculum_api.wire import Precision, State
from curriculum_cli.documents import NO_UID
from curriculum_operator import observe
from curriculum_operator.build import run

LOCAL_CLASS: Final = "local"
"""Stands where a run names its accelerator class."""

_UIDS: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "local.curriculum.dev")


@dataclass(frozen=True, slots=True)
class Here:
    """This machine, and what was asked of it."""

    data: Path
    checkpoints: Path
    gpus: int
    processes: int | None = None
    """Training processes per phase, where the user says so."""

    precision: Precision | None = None
    """For every phase, where the user says so."""


def identified(curriculum: observe.Curriculum) -> observe.Curriculum:
    """With a UID that follows from namespace and name, so that a second run finds the first's
    checkpoints; a UID in the file, as `kubectl get -o yaml` prints it, is kept."""
    if curriculum.uid != NO_UID:
        return curriculum
    uid = uuid.uuid5(_UIDS, f"{curriculum.namespace}/{curriculum.name}")
    return replace(curriculum, uid=str(uid))


def succeeded(
    curriculum: observe.Curriculum, phase: Phase, checkpoint: CheckpointRef
) -> observe.Curriculum:
    """With a verified checkpoint of `phase`, from which the next phase starts."""
    status = PhaseStatus(
        name=phase.name,
        state=State.SUCCEEDED,
        checkpoint=Checkpoint.model_validate(checkpoint.model_dump()),
    )
    return replace(curriculum, status=CurriculumStatus(phases=(*curriculum.status.phases, status)))


def phase_run(
    curriculum: observe.Curriculum, phase: Phase, kind: AcceleratorClassSpec | None, here: Here
) -> PhaseRun:
    """The run of the first attempt of a phase here."""
    built = run.phase_run(curriculum, phase, kind or _stand_in(phase), attempt=1)
    processes, degree = placed(built, here)
    return built.model_copy(
        update={
            "data_dir": str(here.data.resolve()),
            "checkpoints_dir": str(here.checkpoints.resolve()),
            "nodes": 1,
            "processes_per_node": processes,
            "sequence_parallel": degree,
            "precision": here.precision or built.precision,
            "accelerator_class": LOCAL_CLASS,
            # what the device can do, the trainer finds out
            "allowed_precisions": tuple(Precision),
        }
    )


def placed(built: PhaseRun, here: Here) -> tuple[int, int]:
    """Processes, and the sequence-parallel degree that divides them.

    As many as were asked for, else one per visible GPU but no more than the phase has, else one.
    Fewer where a step's sequences could not be shared evenly.
    """
    most = here.processes or min(built.world_size, max(1, here.gpus))
    rows = built.global_batch_tokens // built.context_length
    for processes in range(most, 0, -1):
        degree = math.gcd(built.sequence_parallel, processes)
        if rows % (processes // degree) == 0:
            return processes, degree
    raise AssertionError("one process shares with nobody")


def placement_line(phase: Phase, here: PhaseRun, kind: AcceleratorClassSpec | None) -> str:
    """What became of the phase's nodes, in one line."""
    gpus = phase.gpus_per_node or (kind or _stand_in(phase)).gpus_per_node
    parts = [f"{_processes(here.world_size)} for the {phase.nodes * gpus} of its nodes"]
    if here.sequence_parallel != phase.sequence_parallel:
        parts.append(f"sequenceParallel {here.sequence_parallel} for {phase.sequence_parallel}")
    parts.append(f"{here.global_batch_tokens} tokens a step, as there")
    return f'phase "{phase.name}" here: {"; ".join(parts)}'


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def _stand_in(phase: Phase) -> AcceleratorClassSpec:
    """A class for a file that holds none; of it only the GPUs per node tell in a run.

    The fewest that `sequenceParallel` divides over the phase's nodes.
    """
    degree = phase.sequence_parallel
    return AcceleratorClassSpec(
        match=(MatchRule(),),
        cpu_architecture="amd64",
        gpus_per_node=min(64, degree // math.gcd(degree, phase.nodes)),
        memory_gib=1,
        trains=tuple(Precision),
        image=LOCAL_CLASS,
        fabric=Fabric(profile=LOCAL_CLASS),
    )
