"""What an ended container says of the attempt: its outcome, and which of several came first. Pure.

The trainer's own document is the truth; the exit code only follows it; the kubelet's reason is
asked where there is neither.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from pydantic import ValidationError

from curriculum_api.run import EXIT_CODES, PhaseResult
from curriculum_api.wire import Outcome
from curriculum_operator import observe

SYMPTOMS = frozenset({Outcome.FABRIC_ERROR, Outcome.HUNG, Outcome.UNKNOWN})
"""What the loss of one replica looks like from the others: not a cause where another is known."""

TERMINATED = 128 + 15
"""Exit code of a process that SIGTERM ended."""

SKEW = timedelta(seconds=5)
"""Ends are stamped in whole seconds, by clocks that differ between nodes."""


def well(ended: observe.Ended) -> bool:
    """Whether a container ended well, by its document and by its exit code."""
    result = parse(ended.message)
    return ended.exit_code == 0 and (result is None or result.outcome is Outcome.SUCCEEDED)


def first_bad(pods: Iterable[observe.Pod]) -> observe.Pod | None:
    """The pod whose container ended badly before the others did; None where none did."""
    bad = [pod for pod in pods if pod.ended and not well(pod.ended)]
    return min(bad, key=_order, default=None)


def measured(pods: Iterable[observe.Pod]) -> observe.Pod | None:
    """The first pod that says which of its nodes are not good enough to train on."""
    ended = [pod for pod in pods if pod.ended]
    told = [pod for pod in ended if pod.ended and _preflight(pod.ended)]
    return min(told, key=_order, default=None)


def of(pod: observe.Pod) -> tuple[Outcome, str]:
    """Outcome and message of a pod whose container ended badly."""
    assert pod.ended is not None
    result = parse(pod.ended.message)
    if pod.disrupted:
        return Outcome.PREEMPTED, "ended by the cluster"
    if result is not None and result.outcome is not Outcome.SUCCEEDED:
        return result.outcome, result.message
    if pod.ended.reason == "OOMKilled":
        return Outcome.OUT_OF_MEMORY, "killed by the kernel for want of memory"
    code = pod.ended.exit_code
    for outcome, known in EXIT_CODES.items():
        if code == known and outcome is not Outcome.UNKNOWN:
            return outcome, f"ended with exit code {code}"
    return Outcome.UNKNOWN, f"ended with exit code {code} and no result"


def newest(pods: Iterable[observe.Pod]) -> PhaseResult | None:
    """The newest account among the pods' termination messages."""
    ends = sorted((pod.ended for pod in pods if pod.ended), key=_finished, reverse=True)
    accounts = (parse(ended.message) for ended in ends)
    return next((account for account in accounts if account is not None), None)


def parse(message: str) -> PhaseResult | None:
    """The document in a termination message; None where it holds none."""
    try:
        return PhaseResult.model_validate_json(message)
    except ValidationError:
        return None


def _preflight(ended: observe.Ended) -> bool:
    result = parse(ended.message)
    return result is not None and result.preflight is not None


def _order(pod: observe.Pod) -> tuple[datetime, str]:
    assert pod.ended is not None
    outcome, _ = of(pod)
    told = outcome is Outcome.PREEMPTED or pod.ended.exit_code == TERMINATED
    # A container that was told to stop is a consequence, unless the cluster itself told it so.
    late = SKEW if told and not pod.disrupted else timedelta(0)
    return pod.ended.finished + late, pod.replica


def _finished(ended: observe.Ended) -> datetime:
    return ended.finished
