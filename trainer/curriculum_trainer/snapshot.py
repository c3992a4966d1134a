"""Host memory for one snapshot of a model: what a save copies before training goes on.

One mapping holds all tensors, in the order of the files, and is kept between saves: the pages of
a fresh one cost several times the copy. On a GPU's host it is pinned, so the copy runs at the
speed of the bus.
"""

import math
import mmap
from collections.abc import Iterator, Mapping

import torch

from curriculum_trainer import machine
from curriculum_trainer.checkpoint import Shapes
from curriculum_trainer.precision import Device

BYTES = 4
"""Of one FP32 number."""

_PORTABLE = 1
"""cudaHostRegisterPortable: pinned for every context of the process."""


def size(files: Mapping[str, Shapes]) -> int:
    """Bytes of all tensors."""
    return BYTES * sum(math.prod(shape) for inside in files.values() for shape in inside.values())


def refusal(num_bytes: int, *, processes: int) -> str | None:
    """Why this machine cannot hold a snapshot, or None where it can.

    What the node's processes had in use at their peak they will use again in the next step.
    """
    regrowth = processes * machine.given_back_bytes()
    available = machine.available_bytes()
    if available is None or num_bytes + regrowth <= available:
        return None
    return (
        f"a snapshot takes {_gib(num_bytes)} GiB of host memory and the next step another "
        f"{_gib(regrowth)} GiB, but only {_gib(available)} GiB are available"
    )


class Snapshot:
    """A copy of every tensor, valid until the next `take`."""

    def __init__(self, files: Mapping[str, Shapes], *, device: Device) -> None:
        memory = mmap.mmap(-1, size(files), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._flat = torch.frombuffer(memory, dtype=torch.float32)
        self._shapes = [shape for inside in files.values() for shape in inside.values()]
        self._device = device
        if device.kind == "cuda":
            _pin(self._flat)

    def take(self, tensors: Iterator[torch.Tensor]) -> None:
        """Copy all; on return the originals may change."""
        for kept, tensor in zip(self.tensors(), tensors, strict=True):
            kept.copy_(tensor, non_blocking=True)
        if self._device.kind == "cuda":
            torch.cuda.synchronize()

    def tensors(self) -> Iterator[torch.Tensor]:
        """The copies, in the order of the files."""
        start = 0
        for shape in self._shapes:
            length = math.prod(shape)
            yield self._flat[start : start + length].view(shape)
            start += length


def _pin(flat: torch.Tensor) -> None:
    # torch's own pinned allocator rounds up to a power of two: half the memory of a large model
    failed = torch.cuda.cudart().cudaHostRegister(
        flat.data_ptr(), flat.numel() * flat.element_size(), _PORTABLE
    )
    if int(failed):
        raise MemoryError(f"cudaHostRegister of the snapshot's memory gave error {int(failed)}")


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f}"
