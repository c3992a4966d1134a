"""What a class expects of its nodes: what it says itself, else a share of what was measured.

Links that are no worse than this are not the reason why a phase is slow; nodes that are have been
seen at a third and a seventh.
"""

from curriculum_api.estimate import hardware
from curriculum_api.preflight.figures import Check, Figures, RunPreflight, measured_as
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec, Preflight
from curriculum_api.wire import Precision

LOSS_PERCENT = 0.3
"""A cable that loses 2 % was measured to lose 0.7 to 1.3 in half a second; a sound one on a machine
that is short of processors up to 0.2, of segments that were only late."""

ERRORS_PERCENT = 0.01


def of_class(kind: AcceleratorClassSpec, precision: Precision) -> Figures:
    """The floors of a phase of this precision on nodes of a class; empty without preflight."""
    asked = kind.preflight
    if asked is None:
        return {}
    floors = _derived(kind, asked, measured_as(precision)) | _given(asked)
    return {check: value for check, value in floors.items() if value > 0}


def for_run(kind: AcceleratorClassSpec, precision: Precision) -> RunPreflight | None:
    """What a phase is to measure; None where its class asks for nothing."""
    asked = kind.preflight
    if asked is None or not asked.enabled:
        return None
    return RunPreflight(
        floors=of_class(kind, precision), seconds=asked.seconds, rounds=asked.rounds
    )


def _derived(kind: AcceleratorClassSpec, asked: Preflight, precision: Precision) -> Figures:
    floors = {Check.LOSS: LOSS_PERCENT, Check.ERRORS: ERRORS_PERCENT}
    share = float(asked.share)
    if kind.unified_memory:
        # a Spark that runs out of memory stops as a whole
        floors[Check.MEMORY] = share * kind.memory_gib
    if kind.performance is None:
        return floors
    try:
        numbers = hardware.of_class("", kind)
    except ValueError:
        # figures that contradict each other: plans say so
        return floors
    if precision in numbers.matmul:
        floors[Check.MATMUL] = share * numbers.matmul[precision].measured / hardware.TERA
    storage = share * numbers.storage.measured / hardware.GB
    return floors | {
        Check.LINK: share * numbers.fabric.measured / hardware.GB,
        Check.WRITE: storage,
        Check.READ: storage,
    }


def _given(asked: Preflight) -> Figures:
    floors = asked.floors
    given = {
        Check.MATMUL: floors.matmul_tflops,
        Check.CLOCK: floors.clock_mhz,
        Check.MEMORY: floors.memory_gib,
        Check.SPEED: floors.speed_gbit,
        Check.MTU: floors.mtu,
        Check.ERRORS: floors.errors_percent,
        Check.WRITE: floors.write_gbps,
        Check.READ: floors.read_gbps,
        Check.LOSS: floors.loss_percent,
        Check.LINK: floors.link_gbps,
        Check.LATENCY: floors.latency_ms,
        Check.REDUCE: floors.reduce_gbps,
    }
    return {check: float(value) for check, value in given.items() if value is not None}
