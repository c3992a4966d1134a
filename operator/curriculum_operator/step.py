"""One pure call: from what is known to what is written. Nothing here waits or reads a clock."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from curriculum_api.v1alpha1.accelerator_class import Measurement
from curriculum_api.v1alpha1.status import CurriculumStatus, PhaseStatus
from curriculum_api.wire import State
from curriculum_operator import decide, kinds, names, observe, status
from curriculum_operator.build import meta, network, pytorchjob, run, verification
from curriculum_operator.decision import Decision, Event, line


@dataclass(frozen=True, slots=True)
class Delete:
    """An object to delete, and only the very one that was seen."""

    kind: kinds.Kind
    namespace: str
    name: str
    uid: str
    grace_seconds: int | None = None
    """0 removes a pod whose node cannot say that it ended."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What an attempt has shown of an accelerator class."""

    accelerator_class: str
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class Step:
    """What follows for one curriculum, in the order in which it is written."""

    rule: str
    status: CurriculumStatus
    """Written first, under the resource version that was decided on: the claim comes before the
    creation, so that a stale operator fails here."""

    creates: tuple[meta.Object, ...]
    deletes: tuple[Delete, ...]
    events: tuple[Event, ...]
    assume: observe.Assumed | None
    """What a start holds until its job is seen."""

    wake_after: float | None
    """Seconds until the next look, where no event may announce a change."""

    measured: Measured | None = None
    """What is to be kept of an attempt that ended well."""


def step(
    curriculum: observe.Curriculum,
    world: observe.World,
    now: datetime,
    policy: observe.Policy,
) -> Step:
    """Observe, decide, build."""
    observed = observe.observe(curriculum, world, policy)
    if curriculum.deleting:
        # Its children go by their owner references.
        return Step("deleting", curriculum.status, (), (), (), None, None)
    decision = decide.decide(observed, now)
    return Step(
        rule=decision.rule,
        status=status.build(observed, decision, now),
        creates=tuple(_creates(observed, decision)),
        deletes=tuple(_deletes(observed, decision, now)),
        events=tuple(replace(event, message=line(event.message)) for event in decision.events),
        assume=_assume(observed, decision),
        wake_after=decision.look,
        measured=_measured(observed, decision),
    )


def _creates(observed: observe.Observed, decision: Decision) -> Iterable[meta.Object]:
    claimed = decision.phase
    if claimed is None:
        return
    curriculum = observed.curriculum
    spec = next(p for p in curriculum.spec.phases if p.name == claimed.name)
    if decision.start is not None:
        kind = observed.world.classes[spec.accelerator_class].spec
        pool = observed.world.pools[spec.pool] if spec.pool else None
        promised = network.promise(kind, pool, spec, site=observed.world.profiles)
        yield run.config_map(
            curriculum,
            spec,
            kind,
            attempt=claimed.attempts,
            preflight=decision.measure,
            fabric=promised,
        )
        yield pytorchjob.pytorchjob(
            curriculum,
            spec,
            kind,
            pool,
            attempt=claimed.attempts,
            nodes=decision.start.nodes,
            progress_url=observed.policy.progress_url,
            site=observed.world.profiles,
        )
    verified = observed.verification(claimed.name, claimed.attempts)
    if claimed.state is State.VERIFYING and not verified and not decision.stalled:
        yield verification.verification(curriculum, spec, observed.world, attempt=claimed.attempts)


def _deletes(observed: observe.Observed, decision: Decision, now: datetime) -> Iterable[Delete]:
    live = _live_attempt(decision.phase)
    at_work = {(job.phase, job.attempt) for job in observed.jobs if not job.finished}
    for job in observed.jobs:
        if (job.phase, job.attempt) != live and not job.finished and not job.deleting:
            yield Delete(kinds.PYTORCHJOBS, job.namespace, job.name, job.uid)
    for verifying in observed.verifications:
        wanted = _verified_attempt(decision.phase) == (verifying.phase, verifying.attempt)
        unwanted = not wanted and not verifying.finished
        if (unwanted or verifying == decision.redo) and not verifying.deleting:
            yield Delete(kinds.JOBS, verifying.namespace, verifying.name, verifying.uid)
    for pod in observed.pods:
        if pod.finished:
            continue
        own = (pod.phase, pod.attempt)
        training = pod.role == names.ROLE_TRAIN
        over = own != live or pod.deleting or not training
        if over and decide.node_gone(pod, observed, now):
            yield Delete(kinds.PODS, pod.namespace, pod.name, pod.uid, grace_seconds=0)
        elif training and own != live and own not in at_work and not pod.deleting:
            # Its job is over or gone and left it behind; nothing would start before it ends.
            yield Delete(kinds.PODS, pod.namespace, pod.name, pod.uid)


def _assume(observed: observe.Observed, decision: Decision) -> observe.Assumed | None:
    claimed = decision.phase
    if claimed is None or decision.start is None:
        return None
    curriculum = observed.curriculum
    spec = next(p for p in curriculum.spec.phases if p.name == claimed.name)
    kind = observed.world.classes[spec.accelerator_class].spec
    return observe.Assumed(
        curriculum_uid=curriculum.uid,
        phase=claimed.name,
        attempt=claimed.attempts,
        pool=spec.pool,
        nodes=decision.start.nodes,
        gpu_resource=kind.gpu_resource,
        gpus_per_node=spec.gpus_per_node or kind.gpus_per_node,
    )


def _measured(observed: observe.Observed, decision: Decision) -> Measured | None:
    if decision.phase is None or decision.measured is None:
        return None
    phases = {phase.name: phase for phase in observed.curriculum.spec.phases}
    return Measured(phases[decision.phase.name].accelerator_class, decision.measured)


def _live_attempt(phase: PhaseStatus | None) -> tuple[str, int] | None:
    if phase is None or phase.claim_time is None or phase.end_time is not None:
        return None
    return (phase.name, phase.attempts)


def _verified_attempt(phase: PhaseStatus | None) -> tuple[str, int] | None:
    if phase is None or phase.state is not State.VERIFYING:
        return None
    return (phase.name, phase.attempts)
