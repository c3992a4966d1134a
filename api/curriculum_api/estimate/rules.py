"""What a phase asks that cannot be, from the documents alone: its own, its class's, its pool's."""

import re
from collections.abc import Callable, Iterable

from curriculum_api.v1alpha1 import cel
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import CurriculumSpec, Phase
from curriculum_api.v1alpha1.rented_pool import RentedPoolSpec
from curriculum_api.wire import Precision, RopeScaling, Strategy

BLOCK_SCALED = (Precision.MXFP8, Precision.NVFP4)
"""Formats whose training kernels exist on compute capability 10.0 and 10.3 only."""

ARM = frozenset({"NVIDIA-GB10", "NVIDIA-GB200", "NVIDIA-GB300", "NVIDIA-GH200-480GB"})
"""Products that stand beside a Grace CPU."""

SHARED_PART = 4
"""More than a fourth of unified memory for /dev/shm starves the model, and then the whole host."""

_PLATFORM = re.compile(r"(?:^|[-_./:])(amd64|x86_64|arm64|aarch64)(?:$|[-_./:@])")
_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}


def beyond_class(phase: Phase, name: str, kind: AcceleratorClassSpec) -> Iterable[str]:
    """What the phase asks of its class that the class does not have."""
    if phase.precision not in kind.trains:
        yield (
            f'accelerator class "{name}" cannot train {phase.precision}; it can:'
            f" {', '.join(kind.trains)}"
        )
    if kind.unified_memory and kind.shared_memory_gib > kind.memory_gib // SHARED_PART:
        yield (
            f'accelerator class "{name}" gives /dev/shm {kind.shared_memory_gib} of the'
            f" {kind.memory_gib} GiB that CPU and accelerator share: set sharedMemoryGiB to"
            f" {kind.memory_gib // SHARED_PART} or less"
        )
    gpus = phase.gpus_per_node or kind.gpus_per_node
    if gpus > kind.gpus_per_node:
        yield f'gpusPerNode {gpus} is more than the {kind.gpus_per_node} of class "{name}"'


def of_class(phase: Phase, name: str, kind: AcceleratorClassSpec) -> Iterable[str]:
    """The same, and what the class says of itself that cannot be."""
    yield from beyond_class(phase, name, kind)
    if phase.precision in BLOCK_SCALED and _capability(kind) >= 12:
        yield (
            f"compute capability 12 has no {phase.precision} training kernels, whatever class"
            f' "{name}" says: choose BF16, or a class of capability 10.0'
        )
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


def beyond_pool(phase: Phase, pool: RentedPoolSpec) -> Iterable[str]:
    """What the phase asks of its pool that the pool does not have."""
    if pool.accelerator_class != phase.accelerator_class:
        yield (
            f'rented pool "{phase.pool}" has nodes of class "{pool.accelerator_class}", not'
            f' "{phase.accelerator_class}"'
        )
    if phase.nodes > pool.max_nodes:
        yield f'nodes {phase.nodes} is more than the {pool.max_nodes} of pool "{phase.pool}"'


def of_pool(phase: Phase, pools: dict[str, RentedPoolSpec]) -> Iterable[str]:
    """What the pool cannot give."""
    if phase.pool is None:
        return
    pool = pools.get(phase.pool)
    if pool is None:
        known = ", ".join(sorted(pools)) or "none"
        yield f'rented pool "{phase.pool}" is not known; known: {known}; add it'
        return
    yield from beyond_pool(phase, pool)


def of_phase(phase: Phase) -> Iterable[str]:
    """What the CRD's own rules refuse, in their words; a test holds both against each other."""
    for rule, holds in zip(cel.PHASE, _HOLDS, strict=True):
        if not holds(phase):
            yield rule.message


def of_spec(spec: CurriculumSpec) -> Iterable[str]:
    """The same for what lies above the phases."""
    both, neither = cel.MODEL[1], cel.MODEL[0]
    if spec.model.preset is None and spec.model.config is None:
        yield neither.message
    if spec.model.preset is not None and spec.model.config is not None:
        yield both.message
    names = [phase.name for phase in spec.phases]
    if len(set(names)) < len(names):
        yield cel.UNIQUE_NAMES.message


def _batch_is_whole(phase: Phase) -> bool:
    return not phase.global_batch_tokens or phase.global_batch_tokens % phase.context_length == 0


def _processes_divide(phase: Phase) -> bool:
    given = phase.gpus_per_node
    return given is None or phase.nodes * given % phase.sequence_parallel == 0


def _rope_is_whole(phase: Phase) -> bool:
    rope = phase.rope
    return rope is None or rope.scaling in (None, RopeScaling.NONE) or rope.factor is not None


def _needles_are_asked(phase: Phase) -> bool:
    asked, gate = phase.evaluation, phase.gate
    return gate is None or gate.min_needle is None or asked is None or asked.needles >= 1


def _sources_fit(phase: Phase) -> bool:
    return all((d.context_length or 1) <= phase.context_length for d in phase.data)


def _kernels_exist(phase: Phase) -> bool:
    spark = phase.accelerator_class.endswith(("-sm120", "-sm121"))
    return phase.precision not in BLOCK_SCALED or not spark


_HOLDS: tuple[Callable[[Phase], bool], ...] = (
    lambda p: p.context_length % p.sequence_parallel == 0,
    lambda p: p.sequence_parallel <= 1 or p.strategy is not Strategy.DDP,
    _processes_divide,
    _batch_is_whole,
    _sources_fit,
    lambda p: p.gate is None or p.evaluation is not None,
    _needles_are_asked,
    _rope_is_whole,
    lambda p: not p.memory.offload_activations or p.memory.activation_checkpointing,
    lambda p: not p.memory.offload_optimizer or p.strategy is not Strategy.DDP,
    lambda p: not p.memory.offload_parameters or p.strategy is Strategy.ZERO3,
    _kernels_exist,
)
"""Whether each of `cel.PHASE` holds, in its order."""


def _capability(kind: AcceleratorClassSpec) -> float:
    known = [float(r.compute_capability) for r in kind.match if r.compute_capability]
    return max(known, default=0.0)
