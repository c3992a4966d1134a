"""Computing over tiles of tokens, so that what is wide never exists for a whole sequence.

The forward pass keeps only its input; the backward pass computes tile by tile again. All tiles
are one node of the graph, and a parameter's gradient leaves it once, summed: DeepSpeed's
`TiledMLP` and `TiledFusedLogitsLoss` call `backward` per tile, which would reduce a tile's
gradient as if it were the whole under torch's DDP (their own comment says so).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from curriculum_trainer.data import IGNORED

Compute = Callable[..., torch.Tensor]
"""From tiles of the inputs to the tile of the output; [tokens, ...] each."""


def tiled(
    compute: Compute, *inputs: torch.Tensor, parameters: Sequence[torch.Tensor], tokens: int
) -> torch.Tensor:
    """`compute(*inputs)` in tiles of `tokens`; only the first input may need a gradient.

    `parameters` are all that `compute` reads besides. What fits one tile is computed as it is.
    """
    if inputs[0].shape[0] <= tokens:
        return compute(*inputs)
    return _Tiled.apply(compute, tokens, len(inputs), *inputs, *parameters)


class _Tiled(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    @staticmethod
    def forward(
        ctx: Any, compute: Compute, tokens: int, num_inputs: int, *tensors: torch.Tensor
    ) -> torch.Tensor:
        inputs = tensors[:num_inputs]
        kind = inputs[0].device.type
        ctx.compute, ctx.tokens, ctx.parameters = compute, tokens, tensors[num_inputs:]
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.save_for_backward(*inputs)
        out: torch.Tensor | None = None
        begin = 0
        for tile in _tiles(inputs, tokens):
            done = compute(*tile)
            if out is None:
                out = done.new_empty(inputs[0].shape[0], *done.shape[1:])
            out[begin : begin + done.shape[0]] = done
            begin += done.shape[0]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        inputs = ctx.saved_tensors
        input_grad = torch.empty_like(inputs[0]) if inputs[0].requires_grad else None
        sums: list[torch.Tensor | None] = [None] * len(ctx.parameters)
        trained = [n for n, p in enumerate(ctx.parameters) if p.requires_grad]
        kind, dtype, enabled = ctx.autocast
        begin = 0
        with torch.enable_grad(), torch.autocast(kind, dtype, enabled=enabled):
            for first, grad, *others in _tiles((inputs[0], grads[0], *inputs[1:]), ctx.tokens):
                tile = first.detach().requires_grad_(input_grad is not None)
                sources = [ctx.parameters[n] for n in trained]
                if input_grad is not None:
                    sources.append(tile)
                # asks for values, so that no gradient hook of a sharding sees a single tile
                found = list(
                    torch.autograd.grad(
                        ctx.compute(tile, *others), sources, grad, allow_unused=True
                    )
                )
                if input_grad is not None:
                    input_grad[begin : begin + tile.shape[0]] = found.pop()
                    begin += tile.shape[0]
                for n, part in zip(trained, found, strict=True):
                    if part is not None:
                        sums[n] = _added(sums[n], part)
        return None, None, None, input_grad, *[None] * (len(inputs) - 1), *sums


def _added(so_far: torch.Tensor | None, part: torch.Tensor) -> torch.Tensor:
    # never into `part` itself, which two parameters may share
    return part.clone() if so_far is None else so_far.add_(part)


def _tiles(tensors: Sequence[torch.Tensor], tokens: int) -> Any:
    return zip(*(tensor.split(tokens) for tensor in tensors), strict=True)


class Head(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A decoder's output embedding that scores targets; its logits exist for one tile at a time.

    It holds the very parameters that it replaces, so names and tied embeddings stay. With no
    targets it returns logits, as the decoder's own code expects.
    """

    def __init__(self, linear: torch.nn.Linear, *, tokens: int) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self._tokens = tokens

    def forward(
        self, hidden: torch.Tensor, targets: torch.Tensor | None = None, hits: bool = False
    ) -> torch.Tensor:
        """The log-probability of every target, FP32; 0 where ignored.

        With `hits`, instead: 1 where the target is the likeliest token, else 0.
        """
        if targets is None:
            return functional.linear(hidden, self.weight, self.bias)
        parameters = [p for p in (self.weight, self.bias) if p is not None]
        scores = tiled(
            self._hits if hits else self._scores,
            hidden.flatten(0, 1),
            targets.flatten(),
            parameters=parameters,
            tokens=self._tokens,
        )
        return scores.view_as(targets)

    def _scores(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = functional.linear(hidden, self.weight, self.bias)
        return -functional.cross_entropy(
            logits.float(), targets, ignore_index=IGNORED, reduction="none"
        )

    def _hits(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = functional.linear(hidden, self.weight, self.bias)
        return (logits.argmax(-1) == targets).float()


def tile_mlp(mlp: torch.nn.Module, *, tokens: int) -> None:
    """Make `mlp`, which treats each token by itself, compute in tiles."""
    whole = mlp.forward
    parameters = list(mlp.parameters())

    def compute(hidden: torch.Tensor) -> torch.Tensor:
        return whole(hidden[None])[0]

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch is untyped here
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        flat = hidden.flatten(0, 1)
        return tiled(compute, flat, parameters=parameters, tokens=tokens).view_as(hidden)

    mlp.forward = forward
