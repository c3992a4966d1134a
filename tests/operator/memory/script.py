"""What happens to each attempt: the part of a play that the kubelets read from.

Durations are in beats of the play: one second in memory, less on a real API server.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from curriculum_api.preflight.figures import Findings, Measured
from curriculum_api.wire import Outcome

T = TypeVar("T")

NEVER = 1e7


@dataclass(frozen=True, slots=True)
class Plan:
    """How the pods of one attempt fare. By itself it trains for a while and ends well."""

    seconds: float = 20.0
    """From the start of a pod to the end of the master's training."""

    beats: tuple[float, ...] = (5.0, 15.0)
    """When, after the start, the master reports a finished step."""

    fails: Mapping[str, "Failure"] = field(default_factory=dict)
    """By replica (`worker-0`), how its container ends badly."""

    measured: Measured | None = None
    """What the master tells of its nodes as soon as it runs."""

    stuck: frozenset[str] = frozenset()
    """Replicas whose image cannot be pulled."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How a container ends badly."""

    after: float = 5.0
    exit_code: int = 1
    reason: str = "Error"
    outcome: Outcome | None = None
    """Of the PhaseResult in its termination message; None where it left none."""

    message: str = ""
    preflight: Findings | None = None
    disrupted: bool = False
    """The cluster ended it: the pod says DisruptionTarget."""


@dataclass(frozen=True, slots=True)
class Check:
    """How the verification of a checkpoint ends. By itself the checkpoint is sound."""

    seconds: float = 2.0
    broken_file: str | None = None
    """The file that is refused."""

    silent: bool = False
    """It ends well and says nothing: the termination message was lost."""


HANGS = Plan(seconds=NEVER, beats=())
RUNS_ON = Plan(seconds=NEVER, beats=tuple(float(n) for n in range(5, 4000, 30)))


@dataclass(slots=True)
class Script:
    """Plans by curriculum, phase and attempt; `""` and 0 stand for every one."""

    plans: dict[tuple[str, str, int], Plan] = field(default_factory=dict)
    checks: dict[tuple[str, str, int], Check] = field(default_factory=dict)

    def plan(self, curriculum: str, phase: str, attempt: int) -> Plan:
        """The most particular plan."""
        return _first(self.plans, curriculum, phase, attempt) or Plan()

    def check(self, curriculum: str, phase: str, attempt: int) -> Check:
        """The most particular check."""
        return _first(self.checks, curriculum, phase, attempt) or Check()


def _first(of: Mapping[tuple[str, str, int], T], name: str, phase: str, attempt: int) -> T | None:
    for key in (
        (name, phase, attempt), (name, phase, 0), ("", phase, attempt), ("", phase, 0), ("", "", 0)
    ):  # fmt: skip
        if key in of:
            return of[key]
    return None
