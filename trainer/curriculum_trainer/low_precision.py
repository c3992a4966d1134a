"""FP8, MXFP8 and NVFP4 training by Transformer Engine. The only import of it.

The linear layers of the chosen blocks become Transformer Engine's, around the very parameters
that they had: names, FP32 weights and checkpoints stay as they are. Its own state (scales) is
computed anew from each tensor by all three recipes, so none of it belongs in a checkpoint.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Precision
from curriculum_trainer import failures, memory, precision

MULTIPLE = {Precision.FP8: 16, Precision.MXFP8: 32, Precision.NVFP4: 32}
"""What every side of a multiplied matrix must be divisible by: the format's own blocks (32 values
in MXFP8, 16 in NVFP4) and the 16 bytes that cuBLAS aligns rows to."""

OLDEST = "2.8"
"""The first release of Transformer Engine with NVFP4 training."""


def convert(decoder: Any, run: PhaseRun) -> None:
    """Make the linear layers of the chosen blocks multiply in the phase's precision."""
    blocks = list(memory.blocks(decoder))
    chosen = precision.scaled_blocks(run.precision, len(blocks))
    if not chosen:
        first, last = precision.NVFP4_FIRST, precision.NVFP4_LAST
        raise failures.user_error(
            f'phase "{run.phase}": {run.precision} keeps the first {first} and the last {last} '
            f"blocks in BF16, and the model has {len(blocks)}: choose BF16"
        )
    engine, recipe = _engine(run)
    replaced = 0
    for number in chosen:
        for parent in list(blocks[number].modules()):
            for name, child in list(parent.named_children()):
                if type(child) is torch.nn.Linear:
                    _check(run, child, where=f"block {number}, {name}")
                    setattr(parent, name, _scaled(child, run, engine=engine, recipe=recipe))
                    replaced += 1
    if not replaced:
        raise failures.user_error(
            f'phase "{run.phase}": the blocks of "{type(decoder).__name__}" have no torch.nn.Linear'
            f" that could multiply in {run.precision}: choose BF16"
        )


def _engine(run: PhaseRun) -> tuple[Any, Any]:
    """Transformer Engine's torch module and the phase's recipe."""
    name = precision.RECIPES[run.precision]
    try:
        import transformer_engine.pytorch as engine
        from transformer_engine.common import recipe
    except (ImportError, OSError) as error:
        raise failures.user_error(
            f'phase "{run.phase}": precision {run.precision} needs Transformer Engine {OLDEST} or '
            f"newer, which cannot be imported ({error}): use an image that has it, or choose BF16"
        ) from error
    if not hasattr(recipe, name):
        raise failures.user_error(
            f'phase "{run.phase}": this Transformer Engine has no recipe "{name}": use {OLDEST} or '
            "newer, or choose BF16"
        )
    return engine, getattr(recipe, name)()


def _scaled(linear: torch.nn.Linear, run: PhaseRun, *, engine: Any, recipe: Any) -> Any:
    """Transformer Engine's layer with the parameters of `linear`."""
    made = engine.Linear(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        params_dtype=linear.weight.dtype,
        # nothing is drawn for parameters that are replaced at once
        device="meta",
    )
    made.weight = linear.weight
    if linear.bias is not None:
        made.bias = linear.bias
    made.forward = partial(
        _multiplied, made.forward, partial(_within, engine, recipe), MULTIPLE[run.precision]
    )
    return made


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch is untyped here
def _multiplied(
    forward: Callable[..., torch.Tensor],
    within: Callable[[], AbstractContextManager[Any]],
    multiple: int,
    inputs: torch.Tensor,
) -> torch.Tensor:
    """One layer's forward pass, with rows of zeros where there are too few for the format.

    The recipe is entered here and not around the whole model, so that it also holds where a block
    is computed again in the backward pass, and only in the blocks that were chosen.
    """
    rows = inputs.flatten(0, -2)
    spare = -rows.shape[0] % multiple
    with within():
        out = forward(functional.pad(rows, (0, 0, 0, spare)) if spare else rows)
    return out[: rows.shape[0]].view(*inputs.shape[:-1], out.shape[-1])


def _within(engine: Any, recipe: Any) -> AbstractContextManager[Any]:
    """`autocast` since 2.9; the same by its older name before."""
    entered: AbstractContextManager[Any]
    if hasattr(engine, "autocast"):
        entered = engine.autocast(enabled=True, recipe=recipe)
    else:
        entered = engine.fp8_autocast(enabled=True, fp8_recipe=recipe)
    return entered


def _check(run: PhaseRun, linear: torch.nn.Linear, *, where: str) -> None:
    multiple = MULTIPLE[run.precision]
    if linear.in_features % multiple or linear.out_features % multiple:
        raise failures.user_error(
            f'phase "{run.phase}": {where} is a matrix of {linear.out_features} x '
            f"{linear.in_features}, {run.precision} needs both divisible by {multiple}: choose BF16"
        )
