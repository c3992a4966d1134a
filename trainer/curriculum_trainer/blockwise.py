"""AdamW with moments in 8 or 4 bits, by torchao (BSD-3). The only import of torchao.

A moment is cut into blocks (256 values in 8 bits, 128 in 4); each has an FP32 scale, and every
value a code into a table (Dettmers et al. 2021, arXiv 2110.02861; Li et al. 2023, arXiv
2309.01507). What has fewer than 4,096 values, and what is over after the last whole block, stays
FP32. torchao compiles its update for the GPU; on the CPU, and where there is no compiler, the same
code runs uncompiled.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torchao.optim import AdamW4bit, AdamW8bit
from torchao.optim.quant_utils import quantize_4bit_with_qmap, quantize_8bit_with_qmap
from torchao.optim.subclass_4bit import OptimState4bit
from torchao.optim.subclass_8bit import OptimState8bit

from curriculum_api.run import RunOptimizer
from curriculum_api.wire import OptimizerName
from curriculum_trainer import machine
from curriculum_trainer.optimizer import MOMENTS, Fragment

BLOCKS = {OptimizerName.ADAMW_8BIT: 256, OptimizerName.ADAMW_4BIT: 128}
"""Values of one block; torchao's own numbers."""

SMALLEST = 4096
"""What has fewer values stays FP32; torchao's own number, after bitsandbytes."""

UNCOMPILED = 1 << 20
"""Values that are updated at once where the update is not compiled, and each of its many steps
makes a tensor of 64-bit integers; a whole number of blocks."""

_LEAST_SCALE = 1e-12
"""torchao's lower bound of a block's scale."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a tensor that torchao sees as a parameter of its own: a view of it."""

    start: int
    view: torch.Tensor


class BlockwiseAdamW(torch.optim.Optimizer):  # type: ignore[misc]  # torch is untyped here
    """torchao's AdamW over views of what it is given.

    Blocks never reach over the end of a parameter, not in a flat partition of many either. So a
    parameter is quantised in the same blocks wherever its fragments begin and end at one.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], settings: RunOptimizer) -> None:
        super().__init__(groups, {"lr": 0.0})
        self._block = BLOCKS[settings.name]
        made = AdamW8bit if settings.name is OptimizerName.ADAMW_8BIT else AdamW4bit
        # an optimizer must be born with a parameter, and then is given its groups one by one
        self._inner = made([torch.zeros(0)], lr=0.0, betas=settings.betas, weight_decay=0.0)
        self._inner.param_groups.clear()
        for group in self.param_groups:
            empty = {"params": [], "weight_decay": group["weight_decay"]}
            self._inner.add_param_group(empty)
        self._pieces: dict[torch.Tensor, list[_Piece]] = {}

    def hold(self, tensor: torch.Tensor, fragments: Sequence[Fragment], *, group: int) -> None:
        """See `Adam`."""
        flat = tensor.detach().view(-1)
        pieces = [
            _Piece(start, flat.narrow(0, start, length))
            for fragment in fragments
            for start, length in self._cut(fragment, at_once=_at_once(flat))
        ]
        self._pieces[tensor] = pieces
        self._inner.param_groups[group]["params"] += [piece.view for piece in pieces]
        for piece in pieces:
            self._inner.state[piece.view] = {
                "step": torch.tensor(0.0),
                "exp_avg": self._inner._new_buffer(piece.view, True),
                "exp_avg_sq": self._inner._new_buffer(piece.view, False),
            }

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self) -> None:
        """See `Adam`."""
        updated = []
        for inner in self._inner.param_groups:
            inner["lr"].fill_(self.param_groups[0]["lr"])
        # DeepSpeed takes all groups but one out for a moment, so they are not counted on
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                flat = tensor.grad.view(-1)
                for piece in self._pieces[tensor]:
                    piece.view.grad = flat.narrow(0, piece.start, piece.view.numel())
                    updated.append(piece.view)
        with _as_suits(updated):
            self._inner.step()
        for view in updated:
            view.grad = None

    def moment(self, tensor: torch.Tensor, fragment: Fragment, key: str) -> torch.Tensor:
        """See `Adam`."""
        states = [self._inner.state[piece.view][key] for piece in self._within(tensor, fragment)]
        values = [
            state.dequantize() if isinstance(state, OptimState8bit | OptimState4bit) else state
            for state in states
        ]
        return torch.cat(values) if values else tensor.new_zeros(0)

    def set_moment(
        self, tensor: torch.Tensor, fragment: Fragment, key: str, value: torch.Tensor
    ) -> None:
        """See `Adam`; what was dequantised before gets its very codes and scales again."""
        for piece in self._within(tensor, fragment):
            state = self._inner.state[piece.view][key]
            part = value.narrow(0, piece.start - fragment.start, piece.view.numel())
            if isinstance(state, OptimState8bit | OptimState4bit):
                quantise(part.to(state.device), state)
            else:
                state.copy_(part)

    def steps(self) -> int:
        """See `Adam`."""
        return int(next(iter(self._inner.state.values()))["step"])

    def set_steps(self, steps: int) -> None:
        """See `Adam`."""
        for state in self._inner.state.values():
            state["step"] = torch.tensor(float(steps))

    def num_bytes(self) -> int:
        """What both moments occupy, scales and tables included."""
        states = [state[key] for state in self._inner.state.values() for key in MOMENTS]
        return sum(part.numel() * part.element_size() for state in states for part in _parts(state))

    def _cut(self, fragment: Fragment, *, at_once: int) -> Iterator[tuple[int, int]]:
        whole = fragment.length - fragment.length % self._block
        if whole < SMALLEST:
            whole = 0
        # the last one takes what is over, which alone could be too little to be quantised
        last = max(0, whole // at_once - 1) * at_once
        for start in range(0, last, at_once):
            yield fragment.start + start, at_once
        if whole:
            yield fragment.start + last, whole - last
        if fragment.length > whole:
            yield fragment.start + whole, fragment.length - whole

    def _within(self, tensor: torch.Tensor, fragment: Fragment) -> list[_Piece]:
        end = fragment.start + fragment.length
        return [piece for piece in self._pieces[tensor] if fragment.start <= piece.start < end]


def quantise(value: torch.Tensor, state: Any) -> None:
    """Put FP32 values into a quantised state; exactly, where they came out of such a state.

    torchao takes a block's largest magnitude for its scale. Its signed table ends at 1.0 above
    and short of -1.0 below, so a block whose largest value is negative comes out smaller than
    its scale, and would go in smaller again. So each block is tried with the scales that it may
    have had, and keeps the one that gives every value back; else it is quantised as torchao does.
    """
    blocks = value.view(-1, state.block_size)
    largest = blocks.abs().amax(-1)
    usual = largest.clip(_LEAST_SCALE)
    scale, codes = usual, _codes(blocks, usual, state)
    exact = _same(codes, scale, blocks, state)
    stretched = (largest / state.qmap[0].abs()).clip(_LEAST_SCALE)
    for other in (stretched, *_neighbours(stretched)):
        if exact.all():
            break
        tried = _codes(blocks, other, state)
        better = ~exact & _same(tried, other, blocks, state)
        scale = torch.where(better, other, scale)
        codes = torch.where(better[:, None], tried, codes)
        exact |= better
    # a block that no update has reached yet: no code of the unsigned 4-bit table means zero
    untouched = largest == 0
    scale = torch.where(untouched, 0.0, scale)
    codes = torch.where(untouched[:, None], 0, codes).flatten()
    if isinstance(state, OptimState4bit):
        codes = (codes[::2] << 4) | codes[1::2]
    state.codes.copy_(codes.view(state.codes.shape))
    state.scale.copy_(scale)


def _codes(blocks: torch.Tensor, scale: torch.Tensor, state: Any) -> torch.Tensor:
    nearest = (
        quantize_4bit_with_qmap if isinstance(state, OptimState4bit) else quantize_8bit_with_qmap
    )
    return nearest(blocks / scale[:, None], state.qmap)


def _same(
    codes: torch.Tensor, scale: torch.Tensor, blocks: torch.Tensor, state: Any
) -> torch.Tensor:
    return (state.qmap[codes.int()] * scale[:, None] == blocks).all(-1)


def _neighbours(scale: torch.Tensor) -> Iterator[torch.Tensor]:
    """The floats next to `scale`; a product that was rounded has more than one origin."""
    for towards in (0.0, float("inf")):
        near = scale
        for _ in range(2):
            near = torch.nextafter(near, torch.full_like(near, towards))
            yield near


def _parts(state: Any) -> list[torch.Tensor]:
    if isinstance(state, OptimState8bit | OptimState4bit):
        return [state.codes, state.scale, state.qmap]
    return [state]


def _is_compiled(tensor: torch.Tensor) -> bool:
    return bool(tensor.is_cuda) and machine.has_c_compiler()


def _at_once(flat: torch.Tensor) -> int:
    return max(1, flat.numel()) if _is_compiled(flat) else UNCOMPILED


def _as_suits(views: Sequence[torch.Tensor]) -> AbstractContextManager[Any]:
    if views and _is_compiled(views[0]):
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
