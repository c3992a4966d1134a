"""AdamW, with its two moments in FP32, 8 bits or 4 bits, behind one small interface.

An optimizer updates tensors: a model's parameters, or the flat partitions that DeepSpeed makes
of them. Its moments belong to fragments of those tensors, one per parameter, so that a
parameter's moments can be read and set whatever the sharding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from curriculum_api.run import RunOptimizer
from curriculum_api.wire import OptimizerName

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's moments, by torch's names."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A parameter's part of a flat tensor."""

    start: int
    length: int


class Adam(Protocol):
    """A torch optimizer that also hands out its moments, always in FP32."""

    param_groups: list[dict[str, Any]]

    def step(self) -> None:
        """Update what is in `param_groups` and has a gradient."""
        ...

    def zero_grad(self) -> None:
        """Forget the gradients."""
        ...

    def hold(self, tensor: torch.Tensor, fragments: Sequence[Fragment], *, group: int) -> None:
        """Make zero moments for a tensor of a parameter group; comes before everything else."""
        ...

    def moment(self, tensor: torch.Tensor, fragment: Fragment, key: str) -> torch.Tensor:
        """A fragment's moment, flat, FP32."""
        ...

    def set_moment(
        self, tensor: torch.Tensor, fragment: Fragment, key: str, value: torch.Tensor
    ) -> None:
        """Give a fragment its moment; `value` is flat and FP32."""
        ...

    def steps(self) -> int:
        """Updates that the moments have seen."""
        ...

    def set_steps(self, steps: int) -> None:
        """Set what `steps` returns; the bias correction depends on it."""
        ...


def adamw(module: Any, settings: RunOptimizer) -> Adam:
    """AdamW over matrices with decay and vectors without; its rate is set before each step."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    kept = [group for group in groups if group["params"]]
    if settings.name is OptimizerName.ADAMW:
        # fused: else a GPU's update makes temporary tensors as large as the model
        return FullAdamW(kept, lr=0.0, betas=settings.betas, fused=True)
    # torchao takes seconds to import, and only these two need it
    from curriculum_trainer.blockwise import BlockwiseAdamW

    return BlockwiseAdamW(kept, settings)


class FullAdamW(torch.optim.AdamW):  # type: ignore[misc]  # torch is untyped here
    """torch's AdamW, its moments in FP32."""

    state: Mapping[torch.Tensor, dict[str, torch.Tensor]]

    def hold(self, tensor: torch.Tensor, _fragments: Sequence[Fragment], *, group: int) -> None:  # noqa: ARG002
        """See `Adam`."""
        step = torch.tensor(0.0, device=tensor.device)
        self.state[tensor].update(
            {"step": step} | {key: torch.zeros_like(tensor) for key in MOMENTS}
        )

    def moment(self, tensor: torch.Tensor, fragment: Fragment, key: str) -> torch.Tensor:
        """See `Adam`; a view."""
        return self.state[tensor][key].view(-1).narrow(0, fragment.start, fragment.length)

    def set_moment(
        self, tensor: torch.Tensor, fragment: Fragment, key: str, value: torch.Tensor
    ) -> None:
        """See `Adam`."""
        self.moment(tensor, fragment, key).copy_(value)

    def steps(self) -> int:
        """See `Adam`."""
        return int(next(iter(self.state.values()))["step"])

    def set_steps(self, steps: int) -> None:
        """See `Adam`."""
        for state in self.state.values():
            state["step"].fill_(float(steps))
