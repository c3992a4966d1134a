"""The processes of one attempt: joining them, and agreeing on a few numbers."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from curriculum_api import nccl
from curriculum_trainer import failures
from curriculum_trainer.precision import Device

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a collective may take; a hung peer is found by the missing heartbeat long before."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which process this is."""

    rank: int
    local_rank: int
    world_size: int

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes and reports."""
        return self.rank == 0


def place() -> Place:
    """This process, by the environment its launcher gave it."""
    return Place(
        rank=int(os.environ["RANK"]),
        local_rank=int(os.environ["LOCAL_RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )


def device(place: Place) -> Device:
    """CUDA and NCCL where they are, else CPU and gloo."""
    if not torch.cuda.is_available():
        return Device(kind="cpu", index=0, backend="gloo", reason="no CUDA device is visible")
    index = place.local_rank % torch.cuda.device_count()
    return Device(
        kind="cuda",
        index=index,
        backend="nccl",
        reason=f"{torch.cuda.device_count()} CUDA devices are visible",
        capability=torch.cuda.get_device_capability(index),
    )


def join(device: Device, place: Place) -> None:
    """Meet the other processes at MASTER_ADDR:MASTER_PORT."""
    if device.kind == "cuda":
        torch.cuda.set_device(device.index)
        if place.world_size > 1:
            check_nccl(torch.cuda.nccl.version(), platform.machine())
    dist.init_process_group(
        device.backend, rank=place.rank, world_size=place.world_size, timeout=TIMEOUT
    )


def check_nccl(version: tuple[int, ...], architecture: str) -> None:
    """Refuse what would hang a phase after hours, without a word."""
    if nccl.deadlocks(version, architecture):
        spelt = ".".join(map(str, version))
        raise failures.user_error(
            f"NCCL {spelt} can deadlock on {architecture}: use an image with {nccl.SOUND} or newer"
        )


def total(values: Sequence[float], *, device: Device) -> list[float]:
    """Each value summed over all processes, in FP64; the same on every process."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device.name)
    dist.all_reduce(tensor)
    return [float(value) for value in tensor]


def most(values: Sequence[float], *, device: Device) -> list[float]:
    """The largest of each value over all processes; the same on every process."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device.name)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [float(value) for value in tensor]


def from_leader(make: Callable[[], T], place: Place) -> T:
    """What `make` returns on the leading process, given to all; only there is it called."""
    box = [make() if place.leads else None]
    dist.broadcast_object_list(box, src=0)
    return cast("T", box[0])


def leave() -> None:
    """Part from the others; never waits for one that is gone."""
    if dist.is_initialized():
        dist.destroy_process_group()
