"""How a phase's work lies over its accelerators."""

from dataclasses import dataclass
from enum import StrEnum

from curriculum_api.wire import Strategy


class Recompute(StrEnum):
    """What of a block is computed again in the backward pass instead of being kept."""

    NOTHING = "Nothing"
    SELECTIVE = "Selective"
    """Every second matrix product; attention is kept."""

    EVERYTHING = "Everything"


class Kernels(StrEnum):
    """How what is not a matrix product or attention is computed."""

    EAGER = "Eager"
    """Operation by operation, norms and activations too: models as `transformers` writes them."""

    NATIVE = "Native"
    """Norms and activations are a kernel each, the rest operation by operation."""

    COMPILED = "Compiled"
    """Neighbours are fused, the loss too: torch.compile, or kernels written by hand."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Counts of one phase; lengths in tokens."""

    nodes: int
    gpus_per_node: int
    strategy: Strategy
    context: int
    micro_batch: int = 1
    sequence_parallel: int = 1
    passes: int = 1
    """Forward passes of one optimizer step (gradient accumulation)."""

    recompute: Recompute = Recompute.NOTHING
    kernels: Kernels = Kernels.EAGER

    tile_tokens: int | None = None
    """Positions whose logits exist at once; all where None."""

    tiled_mlp: bool = False
    offload_activations: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False

    @property
    def gpus(self) -> int:
        """Accelerators, one process each."""
        return self.nodes * self.gpus_per_node

    @property
    def data_parallel(self) -> int:
        """Groups that see different sequences."""
        return self.gpus // self.sequence_parallel

    @property
    def pass_tokens(self) -> float:
        """Positions that one accelerator computes in one forward pass."""
        return self.micro_batch * self.context / self.sequence_parallel

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step over all accelerators."""
        return self.data_parallel * self.micro_batch * self.context * self.passes
