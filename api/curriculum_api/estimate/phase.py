"""A phase as users write it, as the numbers that the estimates take."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from curriculum_api.estimate import flops, recipe
from curriculum_api.estimate.layout import Kernels, Layout, Recompute
from curriculum_api.estimate.recipe import Recipe
from curriculum_api.estimate.shape import Shape
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.wire import Objective


@dataclass(frozen=True, slots=True)
class Cut:
    """How a step's sequences fall to the accelerators, as the trainer cuts them."""

    gpus: int
    sequences: int
    micro_batch: int
    passes: int


def gpus_per_node(phase: Phase, kind: AcceleratorClassSpec) -> int:
    """Accelerators of a node that the phase uses."""
    return phase.gpus_per_node or kind.gpus_per_node


def global_batch_tokens(phase: Phase, kind: AcceleratorClassSpec) -> int:
    """Tokens of a step: as given, else one micro-batch on each data-parallel rank."""
    ranks = max(1, phase.nodes * gpus_per_node(phase, kind) // phase.sequence_parallel)
    return phase.global_batch_tokens or ranks * phase.micro_batch_size * phase.context_length


def uneven(phase: Phase, kind: AcceleratorClassSpec) -> Iterable[str]:
    """Numbers of the phase that do not divide, whatever its model is."""
    gpus, degree = phase.nodes * gpus_per_node(phase, kind), phase.sequence_parallel
    if gpus % degree:
        yield (
            f"sequenceParallel {degree} does not divide the {gpus} processes of {phase.nodes} nodes"
            f" with {gpus_per_node(phase, kind)} each: change one"
        )
        return
    batch, ranks = phase.global_batch_tokens, gpus // degree
    per_pass = ranks * phase.context_length
    if batch is not None and batch % per_pass:
        nearest = max(1, round(batch / per_pass)) * per_pass
        yield (
            f"globalBatchTokens {batch} is not a multiple of {per_pass}, one sequence of"
            f" {phase.context_length} for each of the {ranks} data-parallel ranks: take {nearest}"
        )


def refusals(phase: Phase, kind: AcceleratorClassSpec, shape: Shape) -> Iterable[str]:
    """Numbers that do not divide, each with its figures and a number that would."""
    yield from uneven(phase, kind)
    degree = phase.sequence_parallel
    if shape.heads % degree:
        yield (
            f"sequenceParallel {degree} does not divide the model's {shape.heads} attention"
            " heads: choose a divisor of them"
        )
    if max(degree, shape.kv_heads) % min(degree, shape.kv_heads):
        yield (
            f"sequenceParallel {degree} and the model's {shape.kv_heads} key heads do not divide"
            " each other: choose a power of two"
        )


def cut(phase: Phase, kind: AcceleratorClassSpec) -> Cut:
    """The cut of a phase; what does not divide is rounded, for `refusals` to say."""
    gpus = phase.nodes * gpus_per_node(phase, kind)
    ranks = max(1, gpus // phase.sequence_parallel)
    share = max(1, global_batch_tokens(phase, kind) // phase.context_length // ranks)
    limit = min(share, phase.micro_batch_size)
    micro_batch = next(size for size in range(limit, 0, -1) if share % size == 0)
    return Cut(
        gpus=gpus, sequences=share * ranks, micro_batch=micro_batch, passes=share // micro_batch
    )


def layout(phase: Phase, kind: AcceleratorClassSpec) -> Layout:
    """How the phase lies over its accelerators.

    Without compilation blocks run operation by operation, as `transformers` writes them.
    """
    made = cut(phase, kind)
    memory = phase.memory
    everything = memory.activation_checkpointing
    return Layout(
        nodes=phase.nodes,
        gpus_per_node=gpus_per_node(phase, kind),
        strategy=phase.strategy,
        context=phase.context_length,
        micro_batch=made.micro_batch,
        sequence_parallel=phase.sequence_parallel,
        passes=made.passes,
        recompute=Recompute.EVERYTHING if everything else Recompute.NOTHING,
        kernels=Kernels.COMPILED if phase.compile else Kernels.EAGER,
        tile_tokens=memory.tile_tokens,
        tiled_mlp=memory.tiled_mlp,
        offload_activations=memory.offload_activations,
        offload_optimizer=memory.offload_optimizer,
        offload_parameters=memory.offload_parameters,
    )


def bytes_each(phase: Phase) -> Recipe:
    """Bytes per parameter of the phase."""
    return recipe.of_phase(
        phase.precision,
        phase.optimizer.name,
        phase.strategy,
        recomputed=phase.memory.activation_checkpointing,
    )


def attended(phase: Phase, documents: Mapping[str, list[int]]) -> float:
    """Tokens over which a token attends, over the mixture.

    Where the lengths of a source's documents are not known, they fill its samples: the most that
    it can be.
    """
    pairs = []
    for source in phase.data:
        row = source.context_length or phase.context_length
        lengths = documents.get(source.source) or [row]
        pairs.append((float(source.weight), flops.attended(lengths, row=row)))
    return flops.mixed(pairs)


def reference_share(phase: Phase) -> float:
    """Further work of a phase as a share of its training: DPO scores its pairs once, forward."""
    if phase.objective is not Objective.DPO:
        return 0.0
    return 1 / (4 if phase.memory.activation_checkpointing else 3)
