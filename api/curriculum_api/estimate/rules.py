"""What a phase asks of its class and pool that cannot be, from their documents alone."""

import re
from collections.abc import Iterable

from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.v1alpha1.rented_pool import RentedPoolSpec
from curriculum_api.wire import Precision, Strategy

BLOCK_SCALED = (Precision.MXFP8, Precision.NVFP4)
"""Formats whose training kernels exist on compute capability 10.0 and 10.3 only."""

ARM = frozenset({"NVIDIA-GB10", "NVIDIA-GB200", "NVIDIA-GB300", "NVIDIA-GH200-480GB"})
"""Products that stand beside a Grace CPU."""

_PLATFORM = re.compile(r"(?:^|[-_./:])(amd64|x86_64|arm64|aarch64)(?:$|[-_./:@])")
_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}


def of_class(phase: Phase, name: str, kind: AcceleratorClassSpec) -> Iterable[str]:
    """What the class cannot do, and what it says of itself that cannot be."""
    if phase.precision not in kind.trains:
        yield (
            f'accelerator class "{name}" cannot train {phase.precision}; it can:'
            f" {', '.join(kind.trains)}"
        )
    if phase.precision in BLOCK_SCALED and _capability(kind) >= 12:
        yield (
            f"compute capability 12 has no {phase.precision} training kernels, whatever class"
            f' "{name}" says: choose BF16, or a class of capability 10.0'
        )
    gpus = phase.gpus_per_node or kind.gpus_per_node
    if gpus > kind.gpus_per_node:
        yield f'gpusPerNode {gpus} is more than the {kind.gpus_per_node} of class "{name}"'
    expected = "arm64" if any(rule.product in ARM for rule in kind.match) else None
    if expected and kind.cpu_architecture != expected:
        yield (
            f'accelerator class "{name}" says cpuArchitecture {kind.cpu_architecture}, but its'
            f" product has a Grace CPU: set {expected}"
        )
    found = _PLATFORM.search(kind.image)
    platform = _NAMES.get(found[1], found[1]) if found else kind.cpu_architecture
    if platform != kind.cpu_architecture:
        yield (
            f'image "{kind.image}" is for {platform}, but nodes of class "{name}" are'
            f" {kind.cpu_architecture}: take an image for that, or one for both"
        )


def of_pool(phase: Phase, pools: dict[str, RentedPoolSpec]) -> Iterable[str]:
    """What the pool cannot give."""
    if phase.pool is None:
        return
    pool = pools.get(phase.pool)
    if pool is None:
        known = ", ".join(sorted(pools)) or "none"
        yield f'rented pool "{phase.pool}" is not among the files (known: {known}): add it with -f'
        return
    if pool.accelerator_class != phase.accelerator_class:
        yield (
            f'rented pool "{phase.pool}" has nodes of class "{pool.accelerator_class}", not'
            f' "{phase.accelerator_class}"'
        )
    if phase.nodes > pool.max_nodes:
        yield f'nodes {phase.nodes} is more than the {pool.max_nodes} of pool "{phase.pool}"'


def of_memory(phase: Phase) -> Iterable[str]:
    """Trades for memory that need another."""
    asked = phase.memory
    if asked.offload_activations and not asked.activation_checkpointing:
        yield "memory.offloadActivations needs memory.activationCheckpointing: set both"
    if asked.offload_optimizer and phase.strategy is Strategy.DDP:
        yield "memory.offloadOptimizer needs strategy ZeRO1, ZeRO2 or ZeRO3"
    if asked.offload_parameters and phase.strategy is not Strategy.ZERO3:
        yield "memory.offloadParameters needs strategy ZeRO3"


def _capability(kind: AcceleratorClassSpec) -> float:
    known = [float(r.compute_capability) for r in kind.match if r.compute_capability]
    return max(known, default=0.0)
