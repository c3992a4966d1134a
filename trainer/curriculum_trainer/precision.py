"""Which number format and which device a phase trains with, and why; nothing is converted here.

One recipe everywhere: weights, gradients and both Adam moments stay in FP32; BF16 is autocast
over the FP32 weights. So a checkpoint means the same under every strategy, and a handoff is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Precision

TRAINED = (Precision.FP32, Precision.BF16)
"""What this trainer trains."""

BLOCK_SCALED = (Precision.MXFP8, Precision.NVFP4)
"""Formats whose training kernels exist on compute capability 10.0 and 10.3 only."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where a process computes: `kind` is torch's device type, `reason` says why it was chosen."""

    kind: str
    index: int
    backend: str
    reason: str
    capability: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The device as torch spells it."""
        return f"cuda:{self.index}" if self.kind == "cuda" else "cpu"


def refusal(run: PhaseRun, *, capability: tuple[int, int] | None = None) -> str | None:
    """Why this class or device cannot train the phase's precision; None where it can.

    A library's own availability call is not asked: Transformer Engine's says yes to NVFP4 on
    12.x, where the default recipe's kernels are missing or were silently wrong.
    """
    precision = run.precision
    if precision not in run.allowed_precisions:
        allowed = _listed(run.allowed_precisions)
        return (
            f'phase "{run.phase}": accelerator class "{run.accelerator_class}" trains {allowed}, '
            f"not {precision}: choose one of these or another class"
        )
    if precision in BLOCK_SCALED and capability is not None and capability[0] >= 12:
        return (
            f'phase "{run.phase}": compute capability {capability[0]}.{capability[1]} has no '
            f"{precision} training kernels (only 10.0 and 10.3 have): choose BF16"
        )
    if precision not in TRAINED:
        return (
            f'phase "{run.phase}": precision {precision} is not trained here, '
            f"only {_listed(TRAINED)}: choose BF16"
        )
    return None


def choice(run: PhaseRun, device: Device) -> str:
    """One line that says what is used and why."""
    recipe = "FP32 throughout"
    if run.precision is Precision.BF16:
        recipe = "BF16 autocast over FP32 weights, FP32 gradients and moments"
    return f"device {device.name} with {device.backend} ({device.reason}); {recipe}"


def _listed(precisions: Sequence[Precision]) -> str:
    return ", ".join(precisions) or "nothing"
