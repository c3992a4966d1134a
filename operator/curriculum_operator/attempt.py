"""How the live attempt of a phase fares: it forms, it runs, or it ended, and why.

Attribution. When a worker fails, the training-operator fails the job and the master is told to
stop 50 ms later; both then end badly. What counts is the container that ended first: everything
after it is a consequence. An attempt is preempted only where it was ended from outside before
anything in it failed; otherwise a user's bug would be retried for ever on rented nodes.

    claimed ── all replicas run ──▶ formed ── master ends well ──▶ Succeeded
       │                              │
       ├─ form_seconds pass           ├─ a container ends badly        earliest end decides
       │  or an init container fails  ├─ a pod is gone or came again   Preempted, NodeLost
       ▼                              ├─ a node is not Ready           NodeLost
    not formed: queued again          ├─ no step is finished           Hung
                                      └─ activeDeadlineSeconds pass    Unknown

The first end is not judged at once: the others, and the job's own condition, follow within
`settle_seconds`. Until then the attempt is settling, and its job is left alone: deleting it would
take the logs of the containers along.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from curriculum_api.run import PhaseResult
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.v1alpha1.status import PhaseStatus
from curriculum_api.wire import Outcome
from curriculum_operator import account, names, observe

MASTER = "master-0"

FAR_SECONDS = 10 * 365 * 86400
"""A deadline further away than this is none."""

SPENT_SECONDS = 10
"""A claim whose job nobody has seen this long after it will never have one."""

PREFLIGHTS = 10
"""Attempts in a row that may end by what was measured of their nodes before such ends count."""

STEP_MULTIPLE = 10
"""Slow steps stretch the heartbeat deadline: at least this many steps must have been missed."""

START_SECONDS = 120
"""Before its first step an attempt has to load torch, meet and build the model: it may take this
long, however soon a phase is called hung once it trains."""

STEP_SECONDS_MAX = 86400.0
"""A step that claims to take longer stretches it no further."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended."""

    outcome: Outcome
    message: str
    counts: bool
    """Against the phase's maxAttempts."""

    formed: bool = True
    """False where the gang never was whole."""

    account: PhaseResult | None = None
    """The trainer's own, where the container that ended first left one."""

    @property
    def proven_bad(self) -> bool:
        """Whether nodes were measured and found wanting, before anything was trained."""
        return self.account is not None and self.account.preflight is not None


@dataclass(frozen=True, slots=True)
class Live:
    """The live attempt of a phase, with what was seen of it."""

    phase: Phase
    status: PhaseStatus
    job: observe.Job | None
    pods: tuple[observe.Pod, ...]
    observed: observe.Observed

    @property
    def replicas(self) -> tuple[str, ...]:
        """The replicas that a whole gang has."""
        return (MASTER, *(f"worker-{i}" for i in range(self.phase.nodes - 1)))

    @property
    def formed(self) -> datetime | None:
        return _time(self.status.formed_time)

    @property
    def claimed(self) -> datetime:
        claimed = _time(self.status.claim_time)
        assert claimed is not None, "a live attempt has a claim time"
        return claimed


def live(observed: observe.Observed, phase: Phase, status: PhaseStatus) -> Live:
    """Gather what was seen of the attempt that `status` names."""
    return Live(
        phase=phase,
        status=status,
        job=observed.job(phase.name, status.attempts),
        pods=observed.attempt_pods(phase.name, status.attempts, names.ROLE_TRAIN),
        observed=observed,
    )


def whole(attempt: Live) -> bool:
    """Whether every replica runs, or has run."""
    there = {pod.replica for pod in attempt.pods if pod.running or pod.ended}
    return there.issuperset(attempt.replicas)


def settling(attempt: Live, now: datetime) -> bool:
    """Whether something ended a moment ago, and more may be reported that bears on why."""
    end = _first_end(attempt)
    if end is None or now - end >= _settled(attempt):
        return False
    if attempt.job is not None and not attempt.job.finished:
        return True
    if _master_done(attempt):
        return False
    return any(not pod.finished for pod in attempt.pods)


def verdict(attempt: Live, now: datetime) -> Verdict | None:
    """How the attempt ended; None while it lives. To be asked when it is not settling."""
    rules = (
        _succeeded, _ended_badly, _spent, _job_failed, _pod_lost, _node_lost, _not_formed,
        _hung, _too_long,
    )  # fmt: skip
    for rule in rules:
        answer = rule(attempt, now)
        if answer is not None:
            return answer
    return None


def next_look(attempt: Live, now: datetime) -> float:
    """Seconds until a deadline may pass with no event to tell of it."""
    times = list(_deadlines(attempt))
    end = _first_end(attempt)
    if end is not None:
        times.append(end + _settled(attempt))
    grace = timedelta(seconds=attempt.observed.policy.node_grace_seconds)
    times += [n.ready_changed + grace for n in _nodes_down(attempt) if n.ready_changed]
    ahead = [(time - now).total_seconds() for time in times if time > now]
    return min([*ahead, 60.0]) + 0.5


def trouble(pods: Iterable[observe.Pod]) -> str:
    """Why pods do not run, as the first of them has it; empty where nothing is known."""
    told = (f"{pod.replica or pod.name}: {pod.trouble}" for pod in pods if pod.trouble)
    return min(told, default="")


def _first_end(attempt: Live) -> datetime | None:
    """When the first thing was reported that ends the attempt."""
    ends = [
        pod.ended.finished
        for pod in attempt.pods
        if pod.ended and (pod.replica == MASTER or not account.well(pod.ended))
    ]
    if attempt.job and attempt.job.ended:
        ends.append(attempt.job.ended)
    return min(ends, default=None)


def _settled(attempt: Live) -> timedelta:
    return timedelta(seconds=attempt.observed.policy.settle_seconds)


def _master_done(attempt: Live) -> bool:
    return any(p.replica == MASTER and p.ended and account.well(p.ended) for p in attempt.pods)


def _succeeded(attempt: Live, _now: datetime) -> Verdict | None:
    # Whatever a worker did: the master ends well only after the last checkpoint is complete, and
    # that is verified before anything is built on it.
    job_says_so = attempt.job is not None and attempt.job.succeeded
    told = any(pod.replica == MASTER and pod.ended for pod in attempt.pods)
    if _master_done(attempt) or (job_says_so and not told):
        return Verdict(Outcome.SUCCEEDED, "", counts=False)
    return None


def _ended_badly(attempt: Live, _now: datetime) -> Verdict | None:
    first = account.first_bad(attempt.pods)
    if first is None:
        return None
    outcome, message = account.of(first)
    if outcome in account.SYMPTOMS:
        cause = _disrupted(attempt) or _down(attempt)
        if cause is not None:
            return cause
        # What was measured of the nodes explains whatever was lost, whoever ended first.
        first = account.measured(attempt.pods) or first
        outcome, message = account.of(first)
    asked = first.disrupted or first.deleting or attempt.job is None or attempt.job.deleting
    if outcome is Outcome.PREEMPTED and not asked:
        message = f"{message}; nothing in the cluster had asked it to stop"
    assert first.ended is not None
    told = account.parse(first.ended.message)
    counts = outcome is not Outcome.PREEMPTED or not asked
    if told is not None and told.preflight is not None:
        counts = attempt.status.preflights >= PREFLIGHTS
    return Verdict(outcome, f"{first.replica}: {message}", counts=counts, account=told)


def _spent(attempt: Live, now: datetime) -> Verdict | None:
    # A claim whose job is not there may still have a POST under way: its number is not used again.
    # A fresh one may be another operator's, which creates its job right now.
    key = attempt.observed.attempt_key(attempt.phase.name, attempt.status.attempts)
    if attempt.job is not None or key in attempt.observed.world.assumed:
        return None
    seen = attempt.status.job_ref is not None and attempt.status.job_ref.uid != ""
    if seen:
        return Verdict(Outcome.PREEMPTED, "its job was deleted", counts=False)
    if now - attempt.claimed < timedelta(seconds=SPENT_SECONDS):
        return None
    return Verdict(Outcome.UNKNOWN, "its job was never created", counts=False, formed=False)


def _job_failed(attempt: Live, _now: datetime) -> Verdict | None:
    if attempt.job is None or not attempt.job.failed:
        return None
    disrupted = _disrupted(attempt)
    if disrupted is not None:
        return disrupted
    if attempt.formed is None:
        return _unformed(attempt)
    return Verdict(Outcome.UNKNOWN, attempt.job.message, counts=True)


def _pod_lost(attempt: Live, _now: datetime) -> Verdict | None:
    # The training-operator makes a lone pod again, which cannot join the others: the gang is over.
    formed = attempt.formed
    if formed is None:
        return None
    first = {pod.replica: pod for pod in attempt.pods if pod.created <= formed}
    gone = [replica for replica in attempt.replicas if replica not in first]
    down = _down(attempt)
    if gone:
        message = f"the pod of {gone[0]} was deleted"
        return down or Verdict(Outcome.PREEMPTED, message, counts=False)
    leaving = [pod for pod in first.values() if pod.deleting and not pod.finished]
    if leaving and not down:
        replica = min(pod.replica for pod in leaving)
        return Verdict(Outcome.PREEMPTED, f"the pod of {replica} is being deleted", counts=False)
    return None


def _node_lost(attempt: Live, now: datetime) -> Verdict | None:
    grace = timedelta(seconds=attempt.observed.policy.node_grace_seconds)
    for node in _nodes_down(attempt):
        if node.ready_changed is None or now - node.ready_changed > grace:
            return _lost(attempt, f'node "{node.name}" is not Ready')
    for name in _nodes_held(attempt):
        if name not in attempt.observed.world.nodes:
            return _lost(attempt, f'node "{name}" is gone')
    return None


def _not_formed(attempt: Live, now: datetime) -> Verdict | None:
    if attempt.formed is not None:
        return None
    # An init container failed: its pod will never run.
    failed = any(pod.finished and pod.ended is None for pod in attempt.pods)
    deadline = _form_deadline(attempt)
    if failed or (deadline is not None and now > deadline):
        return _unformed(attempt)
    return None


def _hung(attempt: Live, now: datetime) -> Verdict | None:
    if attempt.formed is None or now <= _heartbeat_deadline(attempt, attempt.formed):
        return None
    # A node that is down explains the silence, also while its grace lasts.
    return _down(attempt) or Verdict(
        Outcome.HUNG,
        f"no finished step was reported for {round(_heartbeat_seconds(attempt))} s; where the"
        f" master's log shows steps, its way to {attempt.observed.policy.progress_url} is blocked",
        counts=True,
    )


def _too_long(attempt: Live, now: datetime) -> Verdict | None:
    limit = attempt.phase.active_deadline_seconds
    if limit is None or attempt.formed is None:
        return None
    if (now - attempt.formed).total_seconds() <= limit:
        return None
    message = f"it ran longer than activeDeadlineSeconds {limit}"
    return Verdict(Outcome.UNKNOWN, message, counts=True)


def _deadlines(attempt: Live) -> Iterable[datetime]:
    if attempt.job is None:
        yield attempt.claimed + timedelta(seconds=SPENT_SECONDS)
    if attempt.formed is None:
        deadline = _form_deadline(attempt)
        if deadline is not None:
            yield deadline
        return
    yield _heartbeat_deadline(attempt, attempt.formed)
    limit = attempt.phase.active_deadline_seconds
    if limit and limit < FAR_SECONDS:
        yield attempt.formed + timedelta(seconds=limit)


def _form_deadline(attempt: Live) -> datetime | None:
    """When the gang must be whole; None while a queue has not admitted its job."""
    begun = attempt.claimed
    if attempt.observed.curriculum.spec.queue_name:
        created = [pod.created for pod in attempt.pods]
        if not created:
            return None
        begun = max(begun, *created)
    return begun + timedelta(seconds=attempt.observed.policy.form_seconds)


def _heartbeat_deadline(attempt: Live, formed: datetime) -> datetime:
    # Overdue only once this operator itself has listened for the whole deadline.
    world = attempt.observed.world
    beat = _beat(attempt)
    last = max(formed, world.listening_since, beat.received if beat else formed)
    return last + timedelta(seconds=_heartbeat_seconds(attempt))


def _heartbeat_seconds(attempt: Live) -> float:
    beat = _beat(attempt)
    step = beat.metric("step_seconds") if beat else None
    if step is None:
        return max(attempt.phase.heartbeat_seconds, START_SECONDS)
    return max(attempt.phase.heartbeat_seconds, STEP_MULTIPLE * min(step, STEP_SECONDS_MAX))


def _beat(attempt: Live) -> observe.Beat | None:
    observed = attempt.observed
    key = observed.attempt_key(attempt.phase.name, attempt.status.attempts)
    return observed.world.beats.get(key)


def _nodes_held(attempt: Live) -> Sequence[str]:
    """Nodes that the attempt still needs: of its unfinished pods, and of pods that are gone."""
    of_pods = {pod.node for pod in attempt.pods if pod.node and not pod.finished}
    left = set(attempt.status.nodes) - {pod.node for pod in attempt.pods}
    return sorted(of_pods | left)


def _nodes_down(attempt: Live) -> Sequence[observe.Node]:
    nodes = attempt.observed.world.nodes
    held = [nodes[name] for name in _nodes_held(attempt) if name in nodes]
    return [node for node in held if not node.ready]


def _down(attempt: Live) -> Verdict | None:
    down = _nodes_down(attempt)
    return _lost(attempt, f'node "{down[0].name}" is not Ready') if down else None


def _lost(attempt: Live, message: str) -> Verdict:
    formed = attempt.formed is not None
    return Verdict(Outcome.NODE_LOST, message, counts=formed, formed=formed)


def _disrupted(attempt: Live) -> Verdict | None:
    replicas = sorted(pod.replica for pod in attempt.pods if pod.disrupted)
    if not replicas:
        return None
    message = f"{replicas[0]} was ended by the cluster"
    return Verdict(Outcome.PREEMPTED, message, counts=False)


def _unformed(attempt: Live) -> Verdict:
    running = sum(1 for pod in attempt.pods if pod.running)
    message = trouble(attempt.pods) or f"{running} of {len(attempt.replicas)} pods run"
    return Verdict(Outcome.UNKNOWN, message, counts=False, formed=False)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
