"""How many bytes each parameter costs in training, part by part."""

from dataclasses import dataclass

from curriculum_api.wire import OptimizerName, Precision, Strategy

MOMENT_BYTES = {
    OptimizerName.ADAMW: 8.0,
    OptimizerName.ADAMW_8BIT: 2.0,
    OptimizerName.ADAMW_4BIT: 1.0,
}
"""Both moments of one parameter; the quantised ones carry a scale a block besides, 2 % and less."""

REUSED = 5e8
"""Last weights of a model that DeepSpeed keeps from the forward to the backward pass: between the
two uses lie twice as many as come after, and it keeps what it uses again within 1e9
(`stage3_max_reuse_distance`, its default)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Bytes per parameter, and what the activations between blocks are kept in."""

    weights: float
    gradients: float
    moments: float
    master: float = 0.0
    """FP32 copy of the weights that the optimizer updates, where it is apart from the weights."""

    copies: float = 0.0
    """Copies in the format of the products that live while the gradient graph does."""

    element: float = 2.0
    """Bytes of an activation inside a block."""

    residual: float = 2.0
    """Bytes of an element of the stream between blocks."""

    inputs: float | None = None
    """Bytes in which an input of a product is kept for its gradient; `element` where None."""

    gathered: float | None = None
    """Bytes in which ZeRO-3 gathers a weight; as the weights are kept where None."""

    reused: float = 0.0
    """Weights that ZeRO-3 gathers once for both halves of a pass, the last ones."""

    apart: float = 0.0
    """Bytes of a gradient that is summed over passes outside of what DDP reduces."""

    optimizer: OptimizerName | None = None
    """This project's own, whose rate a class may carry."""


MIXED = Recipe(weights=2, gradients=2, moments=8, master=4)
"""BF16 weights and gradients with FP32 master and moments: 16 bytes (Rajbhandari et al. 2020,
arXiv 1910.02054, section 3.1)."""

MIXED_FP32_GRADIENTS = Recipe(weights=2, gradients=4, moments=8, master=4)
"""The same with gradients summed in FP32: 18 bytes; Megatron-LM's."""

SHARDED_FP32 = Recipe(weights=4, gradients=4, moments=8, gathered=2)
"""FP32 everywhere, gathered in BF16: 16 bytes; FSDP2 with a mixed-precision policy."""

PURE_BF16 = Recipe(weights=2, gradients=2, moments=4)
"""Everything in BF16: 8 bytes."""

MIXED_NVFP4 = Recipe(weights=2, gradients=4, moments=8, master=4, copies=1.125, inputs=0.5625)
"""Megatron-LM's 18 bytes with NVFP4 products by Transformer Engine: weights once more in both
layouts and inputs as they are multiplied, 4 bits and a scale of 8 for 16 of them."""

PURE_BF16_FP8 = Recipe(weights=2, gradients=2, moments=4, copies=2, inputs=1)
"""Everything in BF16 with FP8 products by Transformer Engine: the same with one byte each."""


def of_phase(
    precision: Precision, optimizer: OptimizerName, strategy: Strategy, *, recomputed: bool = False
) -> Recipe:
    """This project's trainer: FP32 weights, gradients and moments, products by autocast.

    A BF16 copy of every weight is kept until its gradient is done; where blocks are computed again
    it is dropped with each block, so there is one block's at a time. DeepSpeed updates an
    FP32 partition apart from the weights, even where they are FP32 themselves. The stream between
    blocks is FP32, because the embedding is.
    """
    low = precision is not Precision.FP32
    return Recipe(
        weights=4,
        gradients=4,
        moments=MOMENT_BYTES[optimizer],
        master=0.0 if strategy is Strategy.DDP else 4.0,
        copies=2.0 if low and not recomputed else 0.0,
        element=2.0 if low else 4.0,
        residual=4.0,
        reused=REUSED if strategy is Strategy.ZERO3 else 0.0,
        apart=4.0 if strategy is Strategy.DDP else 0.0,
        optimizer=optimizer,
    )
