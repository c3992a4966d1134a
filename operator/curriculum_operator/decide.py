"""What to do next about one curriculum: named rules in order, the first that applies decides.

Only the current phase is decided on: the first that has not succeeded. A rule never repeats what
the world already shows, so deciding again on the result of a decision changes nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from pydantic import ValidationError

from curriculum_api.v1alpha1.accelerator_class import Measurement
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.v1alpha1.status import JobRef
from curriculum_api.wire import Outcome, State, problems
from curriculum_operator import account, admit, attempt, check, names, observe, plan, record
from curriculum_operator.decision import (
    FINAL,
    Current,
    Decision,
    Event,
    again,
    ended,
    fail,
    stamp,
    succeed,
    to_verification,
    why_failed,
)

LOOK_SECONDS = 15.0
"""How soon to look again where no event announces the change that is waited for."""


def decide(observed: observe.Observed, now: datetime) -> Decision:
    """Apply the rules in order."""
    at_hand = observed.curriculum.current()
    if at_hand is None:
        return Decision("done")
    current = Current(observed, *at_hand)
    for rule in RULES:
        decision = rule(current, now)
        if decision is not None:
            return decision
    raise AssertionError("the last rule always decides")


def failed(current: Current, _now: datetime) -> Decision | None:
    """A phase failed for good: nothing goes on."""
    if current.status.state is not State.FAILED:
        return None
    return Decision("failed", current.status, stalled=why_failed(current.phase, current.status))


def name_taken(current: Current, _now: datetime) -> Decision | None:
    """An object of the attempt cannot be made: its name is somebody else's, or it is refused."""
    key = current.observed.attempt_key(current.phase.name, current.status.attempts)
    clash = current.observed.world.clashes.get(key)
    if clash is None or not (current.live or current.status.state is State.VERIFYING):
        return None
    if current.live and current.observed.curriculum.spec.suspend:
        return None  # To suspend and resume takes the next number, and so another name.
    return Decision("name_taken", current.status, stalled=(names.NAME_TAKEN, clash))


def settling(current: Current, now: datetime) -> Decision | None:
    """The live attempt just ended: what bears on why is still coming in."""
    if not current.live:
        return None
    live = _live(current)
    if not attempt.settling(live, now):
        return None
    return Decision("settling", current.status, look=attempt.next_look(live, now))


def attempt_ended(current: Current, now: datetime) -> Decision | None:
    """The live attempt ended: well, badly, or from outside."""
    if not current.live:
        return None
    verdict = attempt.verdict(_live(current), now)
    if verdict is None:
        return None
    if verdict.outcome is Outcome.SUCCEEDED:
        return replace(to_verification(current, now), measured=_measured(current))
    if not verdict.formed:
        message = f"{current.title} was not formed: {verdict.message}"
        return again(current, verdict, names.GANG_NOT_FORMED, message, now)
    if not verdict.counts and verdict.proven_bad:
        message = f"{current.title} ended before its first step: {verdict.message}"
        return again(current, verdict, names.PREFLIGHT_FAILED, message, now)
    if not verdict.counts:
        message = f"{current.title} was preempted: {verdict.message}"
        return again(current, verdict, names.ATTEMPT_PREEMPTED, message, now)
    message = f"{current.title} ended as {verdict.outcome}: {verdict.message}"
    failures = current.status.failures + 1
    if verdict.outcome in FINAL or failures >= current.phase.max_attempts:
        return fail(
            current, verdict.outcome, message, now, failures=failures, account=verdict.account
        )
    return again(current, verdict, names.ATTEMPT_FAILED, message, now)


def suspended(current: Current, now: datetime) -> Decision | None:
    """The curriculum is to hold nothing: the live attempt is ended; it saves on its way out."""
    if not current.observed.curriculum.spec.suspend or current.status.state is State.VERIFYING:
        return None
    if current.live:
        status = ended(current, Outcome.PREEMPTED, now)
        message = f"{current.title} was ended to suspend"
        return Decision(
            "suspended",
            status.model_copy(update={"state": State.SUSPENDED, "message": "suspended"}),
            events=(Event("Normal", names.SUSPENDING, message),),
            look=LOOK_SECONDS,
        )
    status = current.status.model_copy(
        update={"state": State.SUSPENDED, "message": "suspended", "retry_time": None}
    )
    return Decision("suspended", status)


def running(current: Current, now: datetime) -> Decision | None:
    """The live attempt goes on."""
    if not current.live:
        return None
    live = _live(current)
    look = attempt.next_look(live, now)
    update: dict[str, object] = {}
    if live.job and current.status.job_ref and not current.status.job_ref.uid:
        update["job_ref"] = JobRef(name=live.job.name, uid=live.job.uid)
    if current.status.formed_time is not None:
        return Decision("running", current.status.model_copy(update=update), look=look)
    if not attempt.whole(live):
        up = sum(1 for pod in live.pods if pod.running)
        why = attempt.trouble(live.pods)
        message = f"{up} of {len(live.replicas)} pods run" + (f"; {why}" if why else "")
        status = current.status.model_copy(update={**update, "message": message})
        return Decision("forming", status, waiting=(names.WAITING_FOR_PODS, message), look=look)
    # Never before the newest pod was made, whatever this clock says: a pod that is newer than
    # the gang is one that came again.
    formed = max([now, *(pod.created for pod in live.pods)])
    update |= {"state": State.RUNNING, "formed_time": stamp(formed), "message": ""}
    message = f"{current.title} runs on {', '.join(current.status.nodes) or 'nodes of its queue'}"
    return Decision(
        "formed",
        current.status.model_copy(update=update),
        events=(Event("Normal", names.PHASE_RUNNING, message),),
        look=look,
    )


def verifying(current: Current, now: datetime) -> Decision | None:
    """The checkpoint of an attempt that ended well is verified before anything is paid for."""
    if current.status.state is not State.VERIFYING:
        return None
    observed, name, number = current.observed, current.phase.name, current.status.attempts
    verification = observed.verification(name, number)
    pods = observed.attempt_pods(name, number, names.ROLE_VERIFY)
    place = check.verified_on(observed.curriculum, current.phase, observed.world)
    if verification is None and place is None:
        problem = f"{current.title} cannot be verified: no accelerator class of its phases exists"
        return Decision("verifying", current.status, stalled=(names.INVALID_SPEC, problem))
    running = any(not pod.finished for pod in pods)
    if verification is None or not verification.finished or running:
        # The job may be seen to be finished before its pods are.
        status = current.status.model_copy(update={"message": attempt.trouble(pods)})
        return Decision("verifying", status)
    result = account.newest(pods)
    if result is None and verification.succeeded:
        return Decision("verdict_lost", current.status, redo=verification, look=LOOK_SECONDS)
    said = result.message if result and result.message else verification.message
    if result is not None and result.checkpoint is None:
        said = said or "its verification names none"
    good = result is not None and result.outcome is Outcome.SUCCEEDED and result.checkpoint
    if result is not None and good and verification.succeeded:
        try:
            return succeed(current, result, now)
        except ValidationError as error:
            said = f"its verification's account cannot be read: {problems(error)}"
    message = f"the checkpoint of {current.title} was refused: {said}"
    return fail(current, Outcome.CHECKPOINT_ERROR, message, now, failures=current.status.failures)


def backing_off(current: Current, now: datetime) -> Decision | None:
    """An attempt failed a moment ago."""
    if current.status.retry_time is None:
        return None
    left = (datetime.fromisoformat(current.status.retry_time) - now).total_seconds()
    if left <= 0:
        return None
    status = current.status.model_copy(update={"state": State.WAITING})
    waiting = (names.BACKING_OFF, current.status.message)
    return Decision("backing_off", status, waiting=waiting, look=left + 0.5)


def stragglers(current: Current, now: datetime) -> Decision | None:
    """Pods of an attempt before are still there: two generations must never overlap."""
    observed = current.observed
    left = [
        pod
        for pod in observed.pods
        if pod.role == names.ROLE_TRAIN and not pod.finished and not node_gone(pod, observed, now)
    ]
    jobs = [job for job in observed.jobs if not job.finished]
    if not left and not jobs:
        return None
    names_left = sorted({f'"{pod.name}"' for pod in left} or {f'"{job.name}"' for job in jobs})
    what = f"waits until {names_left[0]} is gone" + (
        f" and {len(names_left) - 1} more" if len(names_left) > 1 else ""
    )
    status = current.status.model_copy(update={"state": State.WAITING, "message": what})
    waiting = (names.WAITING_FOR_PODS, what)
    return Decision("stragglers", status, waiting=waiting, look=LOOK_SECONDS)


def invalid(current: Current, _now: datetime) -> Decision | None:
    """The phase asks for what is not there; before the very first start, so may no other."""
    for phase in _asking(current):
        problem = check.problem(current.observed, phase)
        if problem is not None:
            state = State.WAITING if current.status.attempts else State.PENDING
            update = {"state": state, "message": "" if phase is not current.phase else problem}
            return Decision(
                "invalid",
                current.status.model_copy(update=update),
                stalled=(names.INVALID_SPEC, problem),
            )
    return None


def infeasible(current: Current, _now: datetime) -> Decision | None:
    """By its plan the phase cannot be trained; once it was tried, its attempts say more."""
    if current.status.attempts:
        return None
    for phase in _asking(current):
        problem = plan.obstacle(current.observed, phase)
        if problem is not None and not plan.overridden(current.observed, phase):
            problem += plan.astray(current.observed)
            update = {"state": State.PENDING, "message": problem if phase is current.phase else ""}
            return Decision(
                "infeasible",
                current.status.model_copy(update=update),
                stalled=(names.NOT_FEASIBLE, problem),
            )
    return None


def start(current: Current, now: datetime) -> Decision | None:
    """Claim the next attempt where its whole gang fits; otherwise say what is short."""
    curriculum = current.observed.curriculum
    placement: admit.Placement | admit.Shortage = admit.Placement(())
    if not curriculum.spec.queue_name:
        placement = admit.walk(curriculum, current.observed.world)
    if isinstance(placement, admit.Shortage):
        update = {"state": State.WAITING, "message": placement.message, "retry_time": None}
        waiting = (names.WAITING_FOR_NODES, placement.message)
        return Decision("short", current.status.model_copy(update=update), waiting=waiting)
    number = current.status.attempts + 1
    name = names.attempt_name(curriculum.name, current.phase.name, number)
    status = current.status.model_copy(
        update={
            "state": State.WAITING,
            "message": "",
            "attempts": number,
            "job_ref": JobRef(name=name),
            "nodes": placement.nodes,
            "claim_time": stamp(now),
            "formed_time": None,
            "end_time": None,
            "retry_time": None,
            "progress": None,
            "start_time": current.status.start_time or stamp(now),
        }
    )
    where = ", ".join(placement.nodes) or f'queue "{curriculum.spec.queue_name}"'
    message = f'Started attempt {number} of phase "{current.phase.name}" on {where}'
    world, phase = current.observed.world, current.phase
    kind = world.classes[phase.accelerator_class]
    measure = record.to_measure(
        kind.spec, phase.precision, admit.nodes_of(placement, world), admit.of_class(kind, world),
        now,
    )  # fmt: skip
    if measure is None and kind.spec.preflight is not None and kind.spec.preflight.enabled:
        message += "; what was measured of its nodes before still holds"
    events = [Event("Normal", names.PHASE_STARTED, message)]
    problem = plan.obstacle(current.observed, current.phase) if number == 1 else None
    if problem is not None:
        events.append(Event("Warning", names.PLAN_OVERRIDDEN, f"Started all the same: {problem}"))
    return Decision(
        "start",
        status,
        start=placement,
        measure=measure,
        events=tuple(events),
        look=LOOK_SECONDS,
    )


Rule = Callable[[Current, datetime], Decision | None]

RULES: tuple[Rule, ...] = (
    failed,         # a phase failed for good
    name_taken,     # a child's name is somebody else's
    settling,       # the live attempt just ended: more is to be heard of it
    attempt_ended,  # before `suspended`: a run that ended well is not thrown away
    suspended,      # nothing is to run
    running,        # the live attempt goes on
    verifying,      # its checkpoint is looked at
    backing_off,    # a pause after a failure: its message stays up meanwhile
    stragglers,     # the attempt before is not gone
    invalid,        # the spec asks for what cannot be
    infeasible,     # its plan says that it cannot be
    start,          # the gang fits, or waits until it does
)  # fmt: skip


def node_gone(pod: observe.Pod, observed: observe.Observed, now: datetime) -> bool:
    """Whether the pod's node is gone for good, or has not been Ready for the grace time."""
    if not pod.node:
        return False
    node = observed.world.nodes.get(pod.node)
    if node is None:
        return True
    grace = timedelta(seconds=observed.policy.node_grace_seconds)
    return not node.ready and node.ready_changed is not None and now - node.ready_changed > grace


def _asking(current: Current) -> tuple[Phase, ...]:
    """The phases that must be in order: the one at hand, before the very first start all."""
    if current.index == 0 and current.status.attempts == 0:
        return current.observed.curriculum.spec.phases
    return (current.phase,)


def _measured(current: Current) -> Measurement | None:
    """What the attempt that just ended well has shown of its class."""
    observed, name = current.observed, current.phase.name
    pods = observed.attempt_pods(name, current.status.attempts, names.ROLE_TRAIN)
    result = account.newest(pods)
    return None if result is None else plan.taken(observed, current.phase, result)


def _live(current: Current) -> attempt.Live:
    return attempt.live(current.observed, current.phase, current.status)
