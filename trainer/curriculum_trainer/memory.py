"""What a phase trades for memory, arranged on a decoder's blocks before it is sharded.

From the inside out, a block is compiled, computed again in the backward pass instead of kept,
and its input parked in the host's memory. DeepSpeed's own offloads are settings of `zero`.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from curriculum_api.run import PhaseRun
from curriculum_api.wire import OptimizerName, Strategy
from curriculum_trainer import failures, machine
from curriculum_trainer.tiling import tile_mlp

COMPILERS = ("g++", "clang++", "c++")


def check(run: PhaseRun) -> None:
    """Refuse trades that this phase cannot make."""
    where, asked = f'phase "{run.phase}"', run.memory
    zero = run.strategy is not Strategy.DDP
    if asked.offload_activations and not asked.activation_checkpointing:
        raise failures.user_error(
            f"{where}: memory.offloadActivations keeps what memory.activationCheckpointing keeps: "
            "set both"
        )
    if asked.offload_optimizer and not zero:
        raise failures.user_error(
            f"{where}: memory.offloadOptimizer needs DeepSpeed, strategy is {run.strategy}: set "
            "it to ZeRO1, ZeRO2 or ZeRO3"
        )
    if asked.offload_parameters and run.strategy is not Strategy.ZERO3:
        raise failures.user_error(
            f"{where}: memory.offloadParameters needs strategy ZeRO3, not {run.strategy}: set it"
        )
    if run.compile and run.strategy is Strategy.ZERO3:
        # its hooks around every single layer leave the compiler nothing to fuse, and are
        # themselves compiled again and again up to torch's limit
        raise failures.user_error(
            f"{where}: compile brings nothing under ZeRO3, which interrupts a block at every layer "
            "to gather its weights: set compile to false, or strategy to ZeRO2"
        )
    if run.compile and not _compiler():
        raise failures.user_error(
            f"{where}: compile needs a C++ compiler, none of {', '.join(COMPILERS)} is in PATH: "
            "install one or set compile to false"
        )


def remarks(run: PhaseRun, *, device_kind: str) -> list[str]:
    """What is asked for and does less here, one line each."""
    said = []
    if run.memory.offload_activations and device_kind == "cpu":
        said.append("memory.offloadActivations does nothing on the CPU, whose memory is the host's")
    small = run.optimizer.name is not OptimizerName.ADAMW
    if small and device_kind == "cuda" and not machine.has_c_compiler():
        said.append(
            f"{run.optimizer.name} updates without Triton, slower and with more memory for a "
            "moment, because there is no C compiler: install one"
        )
    return said


def arrange(decoder: Any, run: PhaseRun, *, device_kind: str) -> None:
    """Make the blocks of `decoder` compute as the phase asks."""
    asked = run.memory
    for block in blocks(decoder):
        if asked.tiled_mlp:
            tile_mlp(_mlp(run, block), tokens=asked.tile_tokens)
        if run.compile:
            block.forward = torch.compile(block.forward)
        if asked.activation_checkpointing:
            parked = asked.offload_activations and device_kind != "cpu"
            block.forward = partial(_recomputed, block.forward, parked=parked)


def blocks(decoder: Any) -> Iterator[Any]:
    """The decoder's blocks, in order."""
    for module in decoder.modules():
        if isinstance(module, GradientCheckpointingLayer):
            yield module


def mlps(decoder: Any) -> Iterator[Any]:
    """The MLPs of its blocks, where a block has one by that name."""
    for block in blocks(decoder):
        if isinstance(getattr(block, "mlp", None), torch.nn.Module):
            yield block.mlp


def _recomputed(forward: Callable[..., Any], *args: Any, parked: bool, **kwargs: Any) -> Any:
    """A block of which only the input is kept until the backward pass."""
    # what a block reads besides is shared by all of them and goes by name: only `args` are parked
    where = (
        torch.autograd.graph.save_on_cpu(pin_memory=True) if parked else contextlib.nullcontext()
    )
    with where:
        out = checkpoint(
            partial(forward, **kwargs), *args, use_reentrant=False, preserve_rng_state=False
        )
    # the block's weights as it multiplied them, which autocast would keep to the end of the pass
    # and nothing reads again: 2 bytes a parameter of the whole model
    torch.clear_autocast_cache()
    return out


def _mlp(run: PhaseRun, block: Any) -> Any:
    found = getattr(block, "mlp", None)
    if not isinstance(found, torch.nn.Module):
        raise failures.user_error(
            f'phase "{run.phase}": memory.tiledMLP: blocks of type "{type(block).__name__}" have '
            'no "mlp": set it to false'
        )
    return found


def _compiler() -> bool:
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ((named,) if named else COMPILERS))
