"""Checkpoints, failures, and the hours that they cost: a range and a likely value.

A job of n nodes fails n times as often as one node. Between failures it saves every T seconds; each
failure costs the work since the last save, half of T on average, and a restart. The best T is
sqrt(2 C M) with C the seconds that a save holds the job and M its mean time between failures (Young
1974; Daly 2006, the first-order form).
"""

import math
from dataclasses import dataclass

from curriculum_api.estimate.hardware import Hardware
from curriculum_api.estimate.layout import Layout
from curriculum_api.estimate.shape import Shape

CHECKPOINT_BYTES = 12.0
"""Of one parameter in a handoff: FP32 weights and both FP32 moments."""

SCHEDULING = 120.0
"""Seconds from a failed gang to a new one that computes: the pods go, are placed and start."""

UNLUCKY = 3.0
"""Failures of a bad run over a likely one; a Poisson count of 1 reaches 3 once in twelve runs."""


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours of a phase: without a failure, as is likely, and in a bad run."""

    least: float
    likely: float
    most: float


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What saving and failing cost a phase; bytes and seconds."""

    size: float
    save: float
    """Seconds from the first byte to the last; one process writes."""

    held: float
    """Of those, seconds in which training waits."""

    restart: float
    """Seconds from a failure to the step after the last save."""

    interval: float
    """Seconds between saves."""

    failures: float
    """Failures to be expected in the whole phase."""


def checkpoints(
    shape: Shape,
    layout: Layout,
    hardware: Hardware,
    *,
    seconds: float,
    interval: float | None,
    snapshot: bool,
) -> Checkpoints:
    """The checkpoints of a phase that computes for `seconds`.

    With a snapshot, training waits only for the copy to host memory. `interval` is what the phase
    asks for; the best one where None.
    """
    size = shape.parameters * CHECKPOINT_BYTES
    save = size / hardware.storage.measured
    held = save
    if snapshot:
        copied = hardware.host or hardware.bandwidth
        held = size / copied.measured
    mttf = mean_time_to_failure(layout, hardware)
    best = math.sqrt(2 * held * mttf) if mttf is not None else seconds
    taken = min(seconds, max(best if interval is None else interval, held))
    return Checkpoints(
        size=size,
        save=save,
        held=held,
        restart=SCHEDULING + size / hardware.storage.measured,
        interval=taken,
        failures=seconds / mttf if mttf is not None else 0.0,
    )


def mean_time_to_failure(layout: Layout, hardware: Hardware) -> float | None:
    """Seconds between failures of the whole job; None where the class tells none."""
    if hardware.mttf_hours is None:
        return None
    return hardware.mttf_hours * 3600 / layout.nodes


def hours(saved: Checkpoints, *, seconds: float) -> Hours:
    """Hours of a phase that computes for `seconds`, with its saves and its failures."""
    saves = max(1.0, seconds / saved.interval)
    clean = seconds + saves * saved.held
    lost = saved.restart + saved.interval / 2
    return Hours(
        least=clean / 3600,
        likely=(clean + saved.failures * lost) / 3600,
        most=(clean + (UNLUCKY * saved.failures + 1) * lost) / 3600,
    )
