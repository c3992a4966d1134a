"""DeepSpeed ZeRO-1, 2 and 3 behind the `Sharding` interface. The only import of DeepSpeed.

DeepSpeed sees all ranks as data-parallel, the sequence-parallel ones too: it averages gradients
over the world either way, and the attention function does the rest. FP32 throughout: where BF16
is asked for, the module inside autocasts.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Strategy
from curriculum_trainer import memory, weights
from curriculum_trainer.optimizer import Adam, Fragment, adamw
from curriculum_trainer.precision import Device
from curriculum_trainer.weights import Fill

_STAGES = {Strategy.ZERO1: 1, Strategy.ZERO2: 2, Strategy.ZERO3: 3}


def deepspeed_on(device_kind: str) -> Any:
    """DeepSpeed, told what it would otherwise probe for."""
    if device_kind == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    _leave_out_muon()
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # a shared-memory all-reduce for inference on CPUs, which DeepSpeed would compile at the
    # first start (a minute, with ninja and g++) and which training never calls
    __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


BUCKET_ELEMENTS = 5_000_000
"""What is reduced or gathered at once: 20 MB, about as much as DDP's buckets, which is enough for
a link's full rate. DeepSpeed's default of 500 million would hold 2 GB, whatever the model."""


def _leave_out_muon() -> None:
    """Put empty modules in place of those of an optimizer that nobody asks for here.

    DeepSpeed imports them to ask whether the optimizer is one, and in the first step, for an update
    that it then does not make; the import sets up torch.compile, which costs every start several
    CPU-seconds and 60 MB.
    """
    for module, name in (("muon_optimizer", "MuonWithAuxAdam"), ("original_muon", "muon_update")):
        path = f"deepspeed.runtime.zero.muon.{module}"
        empty = ModuleType(path)
        setattr(empty, name, type(name, (torch.optim.Optimizer,), {}))
        sys.modules.setdefault(path, empty)


def _settings(run: PhaseRun, *, stage: int, passes: int, micro_batch: int) -> dict[str, Any]:
    sharded: dict[str, Any] = {
        "stage": stage,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
        # each rank's part reduced to it alone: DeepSpeed's default sends twice the bytes, to spare
        # small models the reductions of small parts
        "use_multi_rank_bucket_allreduce": False,
    }
    place = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if run.memory.offload_optimizer:
        sharded["offload_optimizer"] = place
    if run.memory.offload_parameters:
        sharded["offload_param"] = place
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": run.optimizer.clip_norm,
        "zero_optimization": sharded,
        "zero_allow_untested_optimizer": True,
        # its own CPU Adam is compiled at the first start, and is another arithmetic than torch's
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def _give_shares(
    parameters: dict[str, torch.nn.Parameter], fill: Fill, settings: dict[str, Any]
) -> None:
    """Give every parameter its value, and cut it into shares before the next one has any."""
    from deepspeed.runtime.zero import Init

    cut: list[Any] = []

    def take(name: str, value: torch.Tensor) -> None:
        parameter: Any = parameters[name]
        weights.put(parameter, value)
        if cut:
            cut[0].convert_to_zero_parameters([parameter])
        else:
            Init(module=torch.nn.ParameterList([parameter]), config_dict_or_path=settings)
        cut.append(parameter)

    fill(take)


@dataclass(frozen=True, slots=True)
class _Share:
    """What this rank updates of a parameter: where in its flat partition, where in the parameter.

    Under ZeRO-3 the last rank's fragment may reach over the parameter's end.
    """

    partition: int
    fragment: Fragment
    start: int


class Zero:
    """A DeepSpeed engine."""

    def __init__(
        self, module: Any, run: PhaseRun, *, device: Device, passes: int, fill: Fill
    ) -> None:
        deepspeed = deepspeed_on(device.kind)
        deepspeed.init_distributed(device.backend, dist_init_required=False, verbose=False)
        self._stage = _STAGES[run.strategy]
        if self._stage == 3:
            # a cast of every gathered weight would stay until the end of the forward pass
            torch.set_autocast_cache_enabled(False)
            if run.memory.tiled_mlp:
                # gathered once for all tiles, not once for each
                for mlp in memory.mlps(module.decoder):
                    deepspeed.utils.set_z3_leaf_module(mlp, True)
        shapes = [(name, tuple(p.shape)) for name, p in module.decoder.named_parameters()]
        self._names = shapes
        self._parameters = dict(module.decoder.named_parameters())
        settings = _settings(
            run, stage=self._stage, passes=passes, micro_batch=run.micro_batch_size
        )
        # both need the shapes, which a parameter in shards no longer has
        optimizer = adamw(module, run.optimizer)
        if self._stage == 3:
            _give_shares(self._parameters, fill, settings)
        else:
            weights.give(module.decoder, fill)
        self._engine, self._zero, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=settings
        )
        self._adam: Adam = self._zero.optimizer
        self._measure = self._keep_norm()
        self._shares = self._find_shares()
        for number, (partition, group) in enumerate(self._partitions()):
            own = [s.fragment for s in self._shares.values() if s and s.partition == number]
            self._adam.hold(partition, own, group=group)

    def scores(self, *inputs: Any, last: bool = True) -> torch.Tensor:
        """See `Sharding`; DeepSpeed counts the passes itself."""
        assert (
            not torch.is_grad_enabled() or last == self._engine.is_gradient_accumulation_boundary()
        )
        return self._engine(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """See `Sharding`."""
        last = self._engine.is_gradient_accumulation_boundary()
        self._engine.backward(loss, scale_wrt_gas=False)
        if not last:
            # it only counts the pass; the update is `step`'s
            self._engine.step()

    def norm(self) -> float:
        """See `Sharding`."""
        self._norm = self._measure()
        return float(self._norm)

    def step(self, rate: float) -> None:
        """See `Sharding`."""
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._engine.step()

    def skip(self) -> None:
        """See `Sharding`."""
        # DeepSpeed drops the gradients of a step whose norm is infinite, and updates nothing
        self._norm = torch.full_like(self._norm, torch.inf)
        self._engine.step()

    def _keep_norm(self) -> Callable[[], torch.Tensor]:
        """Make DeepSpeed's step take the norm that `norm` measured; returns how to measure it.

        DeepSpeed measures it within the step, too late for the ranks to agree on it before.
        """
        from deepspeed.runtime.utils import combine_grad_norm_groups

        if self._stage == 3:
            groups = self._zero._get_norm_groups
            self._zero._get_norm_groups = lambda: [self._norm]
            return lambda: combine_grad_norm_groups(groups())
        measure = self._zero.scaled_global_norm
        self._zero.scaled_global_norm = lambda: self._norm

        def measured() -> torch.Tensor:
            self._zero._wait_for_offload_copies()
            return measure()

        return measured

    def names(self) -> Sequence[tuple[str, tuple[int, ...]]]:
        """See `Sharding`."""
        return self._names

    def weight(self, name: str) -> torch.Tensor:
        """See `Sharding`."""
        if self._stage < 3:
            return self._parameters[name].detach()
        return self._zero.get_full_hp_param(self._parameters[name])

    def moment(self, name: str, key: str) -> torch.Tensor:
        """See `Sharding`."""
        parameter, share = self._parameters[name], self._shares[name]
        mine = None
        if share is not None:
            partition, _ = self._partitions()[share.partition]
            mine = self._adam.moment(partition, share.fragment, key)
        if self._stage == 3:
            return self._zero._fp32_state_allgather(parameter, mine)
        # summed as whole numbers: the sum of floats would turn -0.0 into 0.0
        full = torch.zeros(parameter.numel(), dtype=torch.int32, device=parameter.device)
        if share is not None and mine is not None:
            full.narrow(0, share.start, share.fragment.length).copy_(mine.view(torch.int32))
        dist.all_reduce(full)
        return full.view(torch.float32).view_as(parameter)

    def set_moment(self, name: str, key: str, value: torch.Tensor) -> None:
        """See `Sharding`."""
        share = self._shares[name]
        if share is None:
            return
        length = share.fragment.length
        mine = value.flatten()[share.start : share.start + length]
        mine = functional.pad(mine, (0, length - mine.numel()))
        partition, _ = self._partitions()[share.partition]
        self._adam.set_moment(partition, share.fragment, key, mine)

    def optimizer_steps(self) -> int:
        """See `Sharding`."""
        return self._adam.steps()

    def set_optimizer_steps(self, steps: int) -> None:
        """See `Sharding`."""
        self._adam.set_steps(steps)

    def _partitions(self) -> list[tuple[torch.Tensor, int]]:
        """The flat FP32 tensors of this rank that Adam updates, with their parameter group."""
        if self._stage == 3:
            flats = self._zero.fp32_partitioned_groups_flat
            return [(flat, self._zero.sub_group_to_group_id[i]) for i, flat in enumerate(flats)]
        return [(flat, i) for i, flat in enumerate(self._zero.single_partition_of_fp32_groups)]

    def _find_shares(self) -> dict[str, _Share | None]:
        """Every parameter's share; None where a rank has nothing of it."""
        shares: dict[str, _Share | None] = {}
        for name, parameter in self._parameters.items():
            if self._stage == 3:
                number, start, length = self._zero.grad_position[self._zero.get_param_id(parameter)]
                shares[name] = _Share(number, Fragment(start, length), length * dist.get_rank())
                continue
            mapping = parameter._hp_mapping
            if mapping is None:
                shares[name] = None
                continue
            flat, whole = mapping.hp_fragment_address, mapping.lp_fragment_address
            shares[name] = _Share(
                mapping.param_group_index, Fragment(flat.start, flat.numel), whole.start
            )
        return shares
