"""How weights, gradients and moments lie over the processes, behind one small interface.

A rank's backward pass gives the gradient of its own share of the loss; every strategy then
averages gradients over all ranks, sequence-parallel ones included, so a caller scales its loss
by the world size. DeepSpeed is imported only where a ZeRO stage asks for it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn.parallel import DistributedDataParallel

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Strategy
from curriculum_trainer import weights
from curriculum_trainer.optimizer import Fragment, adamw
from curriculum_trainer.precision import Device
from curriculum_trainer.weights import Fill


class Sharding(Protocol):
    """One model with its optimizer, spread over the processes.

    All but `names` and the step counts are collective: every rank calls them, in the same order.
    A step is `norm`, then either `step` or `skip`: nothing changes before the ranks have agreed.
    """

    def scores(self, *inputs: Any, last: bool = True) -> torch.Tensor:
        """The forward pass of `TokenScores`; `last` of the step's passes reduces gradients."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add to the gradients."""
        ...

    def norm(self) -> float:
        """The norm of the averaged gradients, before clipping; not finite where any of them is."""
        ...

    def step(self, rate: float) -> None:
        """Clip to what `norm` measured, update, forget the gradients."""
        ...

    def skip(self) -> None:
        """Forget the gradients; weights, moments and step counts stay as they are, to the bit."""
        ...

    def names(self) -> Sequence[tuple[str, tuple[int, ...]]]:
        """Every trained parameter's Hugging Face name and full shape, in the model's order."""
        ...

    def weight(self, name: str) -> torch.Tensor:
        """A parameter in full, FP32."""
        ...

    def moment(self, name: str, key: str) -> torch.Tensor:
        """A parameter's Adam moment in full, FP32."""
        ...

    def set_moment(self, name: str, key: str, value: torch.Tensor) -> None:
        """Give a parameter its Adam moment; every rank passes the full tensor."""
        ...

    def optimizer_steps(self) -> int:
        """Updates that the moments have seen, over all phases."""
        ...

    def set_optimizer_steps(self, steps: int) -> None:
        """Set what `optimizer_steps` returns."""
        ...


def shard(module: Any, run: PhaseRun, *, device: Device, passes: int, fill: Fill) -> Sharding:
    """`module`, a `TokenScores` on the device, under a strategy; `fill` has its parameters."""
    if run.strategy is Strategy.DDP:
        weights.give(module.decoder, fill)
        return DataParallel(module, run)
    from curriculum_trainer.zero import Zero

    return Zero(module, run, device=device, passes=passes, fill=fill)


class DataParallel:
    """torch DistributedDataParallel: every rank holds everything."""

    def __init__(self, module: Any, run: PhaseRun) -> None:
        self._parameters = dict(module.decoder.named_parameters())
        self._clip = run.optimizer.clip_norm
        self._optimizer = adamw(module, run.optimizer)
        for number, group in enumerate(self._optimizer.param_groups):
            for parameter in group["params"]:
                self._optimizer.hold(parameter, [_all_of(parameter)], group=number)
        self._module = DistributedDataParallel(module, gradient_as_bucket_view=True)

    def scores(self, *inputs: Any, last: bool = True) -> torch.Tensor:
        """See `Sharding`."""
        # what `no_sync` sets; DDP reads it in the forward pass already
        self._module.require_backward_grad_sync = last
        return self._module(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """See `Sharding`."""
        loss.backward()

    def norm(self) -> float:
        """See `Sharding`."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        self._norm = torch.nn.utils.get_total_norm(gradients)
        return float(self._norm)

    def step(self, rate: float) -> None:
        """See `Sharding`."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        parameters = self._parameters.values()
        torch.nn.utils.clip_grads_with_norm_(parameters, self._clip, self._norm)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def skip(self) -> None:
        """See `Sharding`."""
        self._optimizer.zero_grad()

    def names(self) -> Sequence[tuple[str, tuple[int, ...]]]:
        """See `Sharding`."""
        return [(name, tuple(p.shape)) for name, p in self._parameters.items()]

    def weight(self, name: str) -> torch.Tensor:
        """See `Sharding`."""
        return self._parameters[name].detach()

    def moment(self, name: str, key: str) -> torch.Tensor:
        """See `Sharding`."""
        parameter = self._parameters[name]
        return self._optimizer.moment(parameter, _all_of(parameter), key).view_as(parameter)

    def set_moment(self, name: str, key: str, value: torch.Tensor) -> None:
        """See `Sharding`."""
        parameter = self._parameters[name]
        self._optimizer.set_moment(parameter, _all_of(parameter), key, value.flatten())

    def optimizer_steps(self) -> int:
        """See `Sharding`."""
        return self._optimizer.steps()

    def set_optimizer_steps(self, steps: int) -> None:
        """See `Sharding`."""
        self._optimizer.set_steps(steps)


def _all_of(parameter: torch.Tensor) -> Fragment:
    return Fragment(0, parameter.numel())
