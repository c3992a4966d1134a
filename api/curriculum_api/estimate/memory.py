"""The peak memory of one accelerator, part by part, in bytes.

States follow ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 5). Activations follow
Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1), who count what each operation of a block
must keep for its gradient, with three changes: attention is fused (Dao 2023, arXiv 2307.08691), so
the scores are never kept and one FP32 number a head and position is; the MLP is gated (SwiGLU), so
three tensors of the intermediate width are kept instead of one; there is no dropout.
"""

from dataclasses import dataclass, fields

from curriculum_api.estimate.hardware import GIB, Hardware, Room
from curriculum_api.estimate.layout import Kernels, Layout, Recompute
from curriculum_api.estimate.recipe import Recipe
from curriculum_api.estimate.shape import Shape
from curriculum_api.wire import Strategy

LOGIT_BYTES = 14
"""Of one logit where all tensors of its loss are there: BF16 logits (2), FP32 logits, their log
probabilities and the gradient (4 each). Cut cross-entropy's authors measured 24 GB for 8,192 tokens
of a vocabulary of 256,000 (arXiv 2411.09009, Gemma 2 2B): 11.4 at the loss itself."""

FUSED_LOGIT_BYTES = 10
"""The same where the log probabilities are fused into what reads them."""

BUCKET_ELEMENTS = 5e6
"""Gradients that DeepSpeed gathers before it reduces them: the trainer's `reduce_bucket_size`."""

PREFETCH_ELEMENTS = 5e7
"""Weights that DeepSpeed's ZeRO-3 gathers ahead (`stage3_prefetch_bucket_size`, its default)."""

FRAMEWORK = 1.0 * GIB
"""CUDA context, cuBLAS workspaces and NCCL's channels; 0.5 GiB of it before any tensor."""

FRAGMENTATION = 0.04
"""Share of what comes and goes that the caching allocator holds and cannot use."""

SYSTEM = 4.0 * GIB
"""Operating system, kubelet and monitoring on a node."""

PROCESS = 3.0 * GIB
"""A trainer's own memory on the host: Python, the CUDA libraries, pinned batches."""

PAGE_CACHE = 2.0 * GIB
"""Least page cache with which shards of data are read without stalls."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one accelerator at its peak; `total` is their sum."""

    weights: float
    copies: float
    """Low-precision copies of the weights, whole under every strategy: the graph keeps them, where
    nothing is computed again."""

    gradients: float
    master: float
    moments: float
    activations: float
    """Kept from the forward pass for the backward pass."""

    block: float
    """One block's worth, computed again; 0 where everything is kept."""

    logits: float
    buffers: float
    """What collectives gather into."""

    framework: float
    """Context, workspaces and fragments."""

    host: float
    """The host's share, where memory is unified."""

    @property
    def total(self) -> float:
        """Bytes of everything."""
        return sum(self.parts().values())

    @property
    def passing(self) -> float:
        """What comes and goes within a step."""
        return self.activations + self.block + self.logits + self.buffers

    def parts(self) -> dict[str, float]:
        """Every part by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


def of(shape: Shape, recipe: Recipe, layout: Layout, room: Room | Hardware) -> Memory:
    """The peak memory of one accelerator."""
    dropped = _fraction(layout)
    count = shape.parameters
    unified = room.unified
    weights, gradients = count * recipe.weights, count * recipe.gradients
    master, moments = count * recipe.master, count * recipe.moments
    offloaded = 0.0
    if layout.offload_optimizer and layout.strategy is not Strategy.DDP:
        offloaded += (master + moments) * dropped.moments
        master = moments = 0.0
    if layout.offload_parameters and layout.strategy is Strategy.ZERO3:
        offloaded += weights * dropped.weights
        weights = 0.0
    kept = layout.pass_tokens * shape.layers * kept_bytes(shape, recipe, layout)
    if layout.offload_activations and layout.recompute is Recompute.EVERYTHING:
        # two blocks' inputs: the one in use and the one on its way
        stays = min(kept, 2 * layout.pass_tokens * shape.hidden * recipe.residual)
        offloaded, kept = offloaded + kept - stays, stays
    block = _block(shape, recipe, layout)
    logits = _logits(shape, recipe, layout)
    buffers = _buffers(shape, recipe, layout)
    passing = kept + block + logits + buffers
    process = FRAMEWORK if room.process is None else room.process
    if layout.strategy is not Strategy.DDP:
        process += room.engine
    wasted = FRAGMENTATION if room.fragmentation is None else room.fragmentation
    return Memory(
        weights=weights * dropped.weights,
        copies=count * recipe.copies,
        gradients=gradients * dropped.gradients,
        master=master * dropped.moments,
        moments=moments * dropped.moments,
        activations=kept,
        block=block,
        logits=logits,
        buffers=buffers,
        framework=process + wasted * passing,
        host=offloaded + host_bytes(room, layout) if unified else 0.0,
    )


def host_bytes(room: Room | Hardware, layout: Layout) -> float:
    """Bytes of a node's own memory beside what is offloaded, on unified memory an accelerator's.

    /dev/shm is counted whole: it is memory as soon as it is written to, and it may be. Nothing
    where a process was measured: the class's memory is then what was left beside all this.
    """
    if room.process is not None:
        return 0.0
    return SYSTEM + PAGE_CACHE + room.shared_memory + PROCESS * layout.gpus_per_node


def snapshot_bytes(shape: Shape) -> float:
    """Bytes of host memory that a save in the background copies: FP32 weights and both moments.

    On the first node only, whose process writes.
    """
    return 12.0 * shape.parameters


def kept_bytes(shape: Shape, recipe: Recipe, layout: Layout) -> float:
    """Bytes that one block keeps of one position for its backward pass.

    With h the hidden width, q and k the widths of all query and key heads, m the intermediate
    width, e bytes an element and r bytes an element of the stream:

    - everything kept, a kernel each: norms 2 (r h + i h), attention e (q + 2 k) + i q + 4 heads,
      MLP 2 e m + i m, with i bytes an element of what a product takes;
    - everything kept, operation by operation: each norm also keeps its FP32 input and its
      normalised one, attention its output twice, the MLP its activation, e m, apart;
    - selective: the input, attention's output and every second matrix product's;
    - nothing kept: the block's input, r h.
    """
    h, q, k, m = shape.hidden, shape.query_width, shape.kv_width, shape.intermediate
    e, r = recipe.element, recipe.residual
    i = e if recipe.inputs is None else recipe.inputs
    if layout.recompute is Recompute.EVERYTHING:
        return r * h
    attention = e * (q + 2 * k) + i * q + 4.0 * shape.heads
    wide = _mlp_share(layout)
    if layout.recompute is Recompute.SELECTIVE:
        return r * h + e * q + e * (2 * h + q + 2 * k + 2 * m * wide) / 2
    block = 2 * (r * h + i * h) + attention + (2 * e + i) * m * wide
    if layout.kernels is Kernels.EAGER:
        return block + 2 * 4 * h + e * q + e * m * wide
    return block


@dataclass(frozen=True, slots=True)
class _Fraction:
    weights: float
    gradients: float
    moments: float


def _fraction(layout: Layout) -> _Fraction:
    """What of each state one accelerator holds: 1, or one part of all."""
    part = 1.0 / layout.gpus
    match layout.strategy:
        case Strategy.DDP:
            return _Fraction(1.0, 1.0, 1.0)
        case Strategy.ZERO1:
            return _Fraction(1.0, 1.0, part)
        case Strategy.ZERO2:
            return _Fraction(1.0, part, part)
        case Strategy.ZERO3:
            return _Fraction(part, part, part)


def _mlp_share(layout: Layout) -> float:
    """What of the MLP's wide tensors is there at once: one tile, where it is computed in tiles."""
    if not layout.tiled_mlp or layout.tile_tokens is None:
        return 1.0
    return min(1.0, layout.tile_tokens / layout.pass_tokens)


def _block(shape: Shape, recipe: Recipe, layout: Layout) -> float:
    """What is there while one block's gradients are computed, beyond what was kept.

    Computed again: all that it keeps, less what is there already. Not computed again: the
    gradients of its two widest tensors.
    """
    wide = 2 * recipe.element * shape.intermediate * _mlp_share(layout)
    if layout.recompute is Recompute.NOTHING:
        return layout.pass_tokens * wide
    again = Layout(
        nodes=1,
        gpus_per_node=1,
        strategy=layout.strategy,
        context=layout.context,
        kernels=layout.kernels,
        tile_tokens=layout.tile_tokens,
        tiled_mlp=layout.tiled_mlp,
        micro_batch=layout.micro_batch,
        sequence_parallel=layout.sequence_parallel,
    )
    whole = kept_bytes(shape, recipe, again)
    already = kept_bytes(shape, recipe, layout)
    return layout.pass_tokens * (max(0.0, whole - already) + wide)


def _logits(shape: Shape, recipe: Recipe, layout: Layout) -> float:
    """The logits that exist at once; in tiles, the head's gradient is summed apart as well."""
    positions, apart = layout.pass_tokens, 0.0
    if layout.tile_tokens is not None and layout.tile_tokens < positions:
        positions = layout.tile_tokens
        apart = recipe.gradients * shape.embedding
    per_logit = FUSED_LOGIT_BYTES if layout.kernels is Kernels.COMPILED else LOGIT_BYTES
    if recipe.element == 4:
        per_logit -= 2  # the FP32 logits are the only ones
    return positions * shape.vocab * per_logit + apart


def _buffers(shape: Shape, recipe: Recipe, layout: Layout) -> float:
    """Bytes that collectives gather into.

    DDP's buckets are the gradients themselves, but torch's sums those of several passes apart from
    them until the last. DeepSpeed fills a bucket of gradients, and copies it into the order in
    which the ranks get their parts. ZeRO-1 and 2 flatten the gradients that the update takes.
    ZeRO-3 holds besides the weights of two blocks, the two wide matrices of the ends or, if they
    are more, the weights that stay until they are used again, and those ahead twice, as they are
    received and put together; with the gradients of the block and of the output matrix before they
    are cut (`AllGatherCoalescedHandle` and `reduce_scatter_coalesced` of DeepSpeed 0.19).
    """
    if layout.strategy is Strategy.DDP:
        return recipe.apart * shape.parameters if layout.passes > 1 else 0.0
    bucket = 2 * min(BUCKET_ELEMENTS, shape.parameters) * recipe.gradients
    if layout.strategy is not Strategy.ZERO3:
        return bucket + recipe.gradients * shape.parameters / layout.gpus
    gathered = recipe.weights if recipe.gathered is None else recipe.gathered
    ahead = min(PREFETCH_ELEMENTS, shape.parameters)
    ends = shape.embedding * (1 if shape.tied else 2)
    stay = max(ends, min(recipe.reused, shape.parameters))
    held = 2 * shape.block + stay + 2 * ahead
    return bucket + gathered * held + recipe.gradients * shape.block
