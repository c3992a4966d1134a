"""Which number format and which device a phase trains with, and why; nothing is converted here.

Weights, gradients and both Adam moments are FP32 under every precision; BF16 is autocast over
the FP32 weights, and FP8, MXFP8 and NVFP4 are what the blocks' matrix multiplications turn their
operands into. So a checkpoint means the same everywhere, and a handoff is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Precision

SCALED = (Precision.FP8, Precision.MXFP8, Precision.NVFP4)
"""Formats that need scales, and so Transformer Engine."""

RECIPES = {
    Precision.FP8: "Float8CurrentScaling",
    Precision.MXFP8: "MXFP8BlockScaling",
    Precision.NVFP4: "NVFP4BlockScaling",
}
"""Transformer Engine's recipe of each, with its defaults."""

BLOCK_SCALED_ON = ((10, 0), (10, 3))
"""Compute capabilities with training kernels for MXFP8 and NVFP4, by the list of supported
devices in Transformer Engine's documentation."""

FP8_FROM = (8, 9)
"""The first compute capability with FP8 matrix multiplications."""

NVFP4_FIRST, NVFP4_LAST = 2, 8
"""Blocks at both ends that stay in BF16 under NVFP4 (NVIDIA 2025, arXiv 2509.25149)."""


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


def refusal(run: PhaseRun, device: Device | None = None) -> str | None:
    """Why this class or device cannot train the phase's precision; None where it can.

    A library's own availability call is not asked: Transformer Engine's says yes to NVFP4 on
    12.x, where the default recipe's kernels are missing or were silently wrong.
    """
    precision = run.precision
    if precision not in run.allowed_precisions:
        allowed = ", ".join(run.allowed_precisions) or "nothing"
        return (
            f'phase "{run.phase}": accelerator class "{run.accelerator_class}" trains {allowed}, '
            f"not {precision}: choose one of these or another class"
        )
    if precision not in SCALED or device is None:
        return None
    if device.capability is None:
        return (
            f'phase "{run.phase}": precision {precision} needs a CUDA device, this process has '
            f"{device.name} ({device.reason}): choose BF16 or FP32"
        )
    if precision is Precision.FP8:
        fits, only = device.capability >= FP8_FROM, f"{_spelt(FP8_FROM)} and newer have"
    else:
        fits = device.capability in BLOCK_SCALED_ON
        only = f"only {' and '.join(map(_spelt, BLOCK_SCALED_ON))} have"
    if fits:
        return None
    return (
        f'phase "{run.phase}": compute capability {_spelt(device.capability)} has no {precision} '
        f"training kernels ({only}): choose BF16"
    )


def scaled_blocks(precision: Precision, blocks: int) -> range:
    """Numbers of the blocks whose matrices are multiplied in a scaled format; may be none."""
    if precision is Precision.NVFP4:
        return range(NVFP4_FIRST, blocks - NVFP4_LAST)
    return range(blocks) if precision in SCALED else range(0)


def choice(run: PhaseRun, device: Device) -> str:
    """One line that says what is used where, and why."""
    recipe = "FP32 throughout"
    if run.precision is Precision.BF16:
        recipe = "BF16 autocast over FP32 weights, FP32 gradients and moments"
    if run.precision in SCALED and device.capability is not None:
        which = "all blocks"
        if run.precision is Precision.NVFP4:
            which = f"all blocks but the first {NVFP4_FIRST} and the last {NVFP4_LAST}"
        recipe = (
            f"{run.precision} in the linear layers of {which}, by Transformer Engine's "
            f"{RECIPES[run.precision]} (compute capability {_spelt(device.capability)} has its "
            "training kernels); BF16 autocast in all else, embeddings and head too; FP32 weights, "
            "gradients and moments"
        )
    return f"device {device.name} with {device.backend} ({device.reason}); {recipe}"


def _spelt(capability: Sequence[int]) -> str:
    return ".".join(map(str, capability))
