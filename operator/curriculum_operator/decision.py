"""What is decided, as a value, and what a phase's status becomes when an attempt ends. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite

from curriculum_api.preflight.figures import RunPreflight
from curriculum_api.run import PhaseResult
from curriculum_api.v1alpha1.accelerator_class import Measurement
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.v1alpha1.status import Checkpoint, Metric, PhaseStatus, Result
from curriculum_api.wire import Outcome, State
from curriculum_operator import admit, attempt, cost, names, observe

FINAL = frozenset({Outcome.USER_ERROR, Outcome.DATA_ERROR, Outcome.GATE_FAILED})
"""Outcomes that another attempt would only repeat, on nodes that cost money."""

MESSAGE_CHARACTERS = 1024
"""What conditions, events and the status of a phase may hold."""

FIGURES = 64
FIGURE_CHARACTERS = 63
"""What the status of a phase may hold of an evaluation: figures, and characters of a name."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, for `kubectl describe`."""

    type: str
    """`Normal` or `Warning`."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What the current phase's status is from now on, and what follows from it."""

    rule: str
    phase: PhaseStatus | None = None
    """The current phase's status from now on; None where no phase is left."""

    stalled: tuple[str, str] | None = None
    """Reason and message, where nothing goes on without somebody's help."""

    waiting: tuple[str, str] | None = None
    """Reason and message, where something is waited for."""

    start: admit.Placement | None = None
    """Create the attempt that `phase` claims, on these nodes."""

    measure: RunPreflight | None = None
    """What that attempt measures of its nodes before its first step."""

    redo: observe.Verification | None = None
    """A verification that ended without a verdict, to be made again."""

    measured: Measurement | None = None
    """What an attempt that ended well has shown of the phase's accelerator class."""

    events: tuple[Event, ...] = ()
    look: float | None = None
    """Seconds until the next look, where no event may announce a change."""


@dataclass(frozen=True, slots=True)
class Current:
    """The current phase, and everything around it."""

    observed: observe.Observed
    index: int
    phase: Phase
    status: PhaseStatus

    @property
    def live(self) -> bool:
        """Whether an attempt was claimed and has not ended."""
        return self.status.claim_time is not None and self.status.end_time is None

    @property
    def title(self) -> str:
        return f'attempt {self.status.attempts} of phase "{self.phase.name}"'


def stamp(now: datetime) -> str:
    """A time as the API writes it, to the second."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def why_failed(phase: Phase, status: PhaseStatus) -> tuple[str, str]:
    """Reason and message of a phase that failed for good."""
    if status.outcome is Outcome.GATE_FAILED:
        return names.GATE_FAILED, status.message
    if status.outcome in FINAL:
        return names.PHASE_FAILED, status.message
    if status.failures >= phase.max_attempts:
        return names.ATTEMPTS_EXHAUSTED, status.message
    # Nothing else ends a phase with attempts left.
    return names.CHECKPOINT_REFUSED, status.message


def line(text: str) -> str:
    """A message as the API carries it: one line of at most MESSAGE_CHARACTERS."""
    text = " ".join(text.split())
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[: MESSAGE_CHARACTERS - 3]}..."


def ended(current: Current, outcome: Outcome, now: datetime) -> PhaseStatus:
    """The phase's status once its live attempt has ended, with what that attempt cost."""
    seconds = cost.gpu_seconds(current.observed, current.phase, current.status, now)
    usd = cost.usd(current.observed, current.phase, seconds)
    return current.status.model_copy(
        update={
            "outcome": outcome,
            "end_time": stamp(now),
            "gpu_seconds": current.status.gpu_seconds + seconds,
            "usd": cost.add(current.status.usd, usd),
        }
    )


def to_verification(current: Current, now: datetime) -> Decision:
    """The attempt ended well: its checkpoint is verified next."""
    status = ended(current, Outcome.SUCCEEDED, now)
    message = f"{current.title} ended well; its checkpoint is being verified"
    return Decision(
        "ended_well",
        status.model_copy(update={"state": State.VERIFYING, "message": ""}),
        events=(Event("Normal", names.PHASE_VERIFYING, message),),
    )


def again(
    current: Current, verdict: attempt.Verdict, reason: str, message: str, now: datetime
) -> Decision:
    """The attempt ended, and another follows after a pause.

    One that does not count pauses too: what ends it, a queue or a quota, may do so again at once.
    """
    policy = current.observed.policy
    failures = current.status.failures + (1 if verdict.counts else 0)
    seconds = policy.retry_base_seconds * 2.0 ** max(0, failures - 1)
    seconds = min(seconds, policy.retry_max_seconds)
    status = ended(current, verdict.outcome, now)
    update = {
        "state": State.WAITING,
        "message": message,
        "failures": failures,
        "preflights": current.status.preflights + 1 if verdict.proven_bad else 0,
        "retry_time": stamp(now + timedelta(seconds=seconds)),
    }
    return Decision(
        "attempt_ended",
        status.model_copy(update=update),
        waiting=(names.BACKING_OFF, message),
        events=(Event("Warning", reason, message),),
        look=seconds + 0.5,
    )


def fail(
    current: Current,
    outcome: Outcome,
    message: str,
    now: datetime,
    *,
    failures: int,
    account: PhaseResult | None = None,
) -> Decision:
    """The phase will not be tried again; what it was measured to be is kept."""
    status = ended(current, outcome, now) if current.live else current.status
    update: dict[str, object] = {
        "state": State.FAILED,
        "message": message,
        "outcome": outcome,
        "failures": failures,
        "completion_time": stamp(now),
    }
    if account is not None and account.evaluation:
        update["result"] = _result(account)
    status = status.model_copy(update=update)
    return Decision(
        "phase_failed",
        status,
        stalled=why_failed(current.phase, status),
        events=(Event("Warning", names.PHASE_FAILED, message),),
    )


def succeed(current: Current, result: PhaseResult, now: datetime) -> Decision:
    """The checkpoint is good: the phase is done, and the next one starts from it.

    Raises:
        ValidationError: the verifier's account is not one that a status may hold.
    """
    assert result.checkpoint is not None
    reference = result.checkpoint
    update = {
        "state": State.SUCCEEDED,
        "message": "",
        "completion_time": stamp(now),
        "checkpoint": Checkpoint(
            uri=reference.uri,
            step=reference.step,
            tokens=reference.tokens,
            digest=reference.digest,
        ),
        "result": _result(result),
    }
    message = f'Phase "{current.phase.name}" succeeded with checkpoint {reference.uri}'
    return Decision(
        "verified",
        current.status.model_copy(update=update),
        events=(Event("Normal", names.PHASE_SUCCEEDED, message),),
    )


def _result(account: PhaseResult) -> Result:
    figures = [
        Metric(name=name, value=f"{value:.6g}")
        for name, value in account.evaluation.items()
        if isfinite(value) and len(name) <= FIGURE_CHARACTERS
    ]
    return Result(
        world_size=account.world_size,
        loss_first=_figure(account.loss_first),
        loss_last=_figure(account.loss_last),
        seconds=round(account.seconds) if isfinite(account.seconds) else 0,
        evaluation=tuple(figures[:FIGURES]),
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
