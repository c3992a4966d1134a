"""What one machine's devices do by themselves: versions, a matrix multiplication, an all-reduce.

`python -m curriculum_trainer.probe BYTES` is one process of the all-reduce, placed by its
environment as a training process is.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
import torch.distributed as dist

from curriculum_api import nccl as versions
from curriculum_trainer import collective
from curriculum_trainer.placement import Placement
from curriculum_trainer.precision import Device

LOW_SHARE = 0.4
"""Of its peak; a device below it is stuck at a low clock, or shared. A sound GB10 reaches 0.73."""

_DRIVER = Path("/proc/driver/nvidia/version")


class Verdict(StrEnum):
    """How a check came out."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIP = "SKIP"


@dataclass(frozen=True, slots=True)
class Row:
    """One check: a figure where it passed, else the reason."""

    check: str
    verdict: Verdict
    says: str


def driver(name: str, device: Device) -> Row:
    """The device, its capability, and the driver it runs under."""
    version = "unknown"
    if _DRIVER.is_file():
        words = _DRIVER.read_text().splitlines()[0].split()
        version = next((word for word in words if word[:1].isdigit() and "." in word), version)
    capability = "none"
    if device.capability is not None:
        capability = ".".join(map(str, device.capability))
    says = f"{name}, compute capability {capability}, driver {version}, torch {torch.__version__}"
    return Row("device", Verdict.PASS, says)


def nccl(version: tuple[int, ...] | None, architecture: str = platform.machine()) -> Row:
    """Whether this NCCL is one to train with."""
    if version is None:
        return Row("NCCL", Verdict.SKIP, "this torch was built without it")
    spelt = ".".join(map(str, version))
    if versions.deadlocks(version, architecture):
        reason = f"{spelt} can deadlock on {architecture}: use {versions.SOUND} or newer"
        return Row("NCCL", Verdict.FAIL, reason)
    return Row("NCCL", Verdict.PASS, f"{spelt} on {architecture}")


def multiply(device: Device, *, side: int, rounds: int = 20) -> float:
    """FLOPs per second of square BF16 matrix multiplications."""
    one, other = (torch.randn(side, side, device=device.name).bfloat16() for _ in range(2))
    return 2 * side**3 / _seconds(lambda: one @ other, device, rounds=rounds)


def matmul(flops: float, peak: float | None) -> Row:
    """Whether a device multiplies as fast as its kind should."""
    says = f"{flops / 1e12:.3g} TFLOPS"
    if peak is None:
        return Row("BF16 matmul", Verdict.PASS, f"{says}; no peak is known for this device")
    says = f"{says}, {100 * flops / peak:.0f} % of {peak / 1e12:.0f}"
    if flops < LOW_SHARE * peak:
        reason = f"{says}: stuck at a low clock or in use by others; look at nvidia-smi -q -d CLOCK"
        return Row("BF16 matmul", Verdict.FAIL, reason)
    return Row("BF16 matmul", Verdict.PASS, says)


def all_reduce(where: Placement, environment: Mapping[str, str], *, num_bytes: int) -> Row:
    """The bus bandwidth over all devices, each in a process of its own."""
    check = f"all-reduce of {num_bytes >> 20} MiB over {where.processes_per_node}"
    if where.processes_per_node == 1:
        return Row(check, Verdict.SKIP, "one device has nobody to reduce with")
    command = [sys.executable, "-m", "curriculum_trainer.probe", str(num_bytes)]
    processes = [
        subprocess.Popen(
            command,
            env=where.worker_environment(rank, environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(where.processes_per_node)
    ]
    said = [process.communicate()[0] for process in processes]
    for rank, process in enumerate(processes):
        if process.returncode:
            last = (said[rank].strip().splitlines() or ["nothing"])[-1]
            reason = f"process {rank} ended with exit code {process.returncode}: {last}"
            return Row(check, Verdict.FAIL, reason)
    bandwidth = json.loads(said[0].splitlines()[-1])["busbw"]
    return Row(check, Verdict.PASS, f"bus bandwidth {bandwidth / 1e9:.3g} GB/s")


def reduce_bandwidth(device: Device, *, num_bytes: int, rounds: int = 20) -> float:
    """Bytes per second of an all-reduce, as nccl-tests count its bus bandwidth."""
    ranks = dist.get_world_size()
    values = torch.zeros(num_bytes // 4, device=device.name)
    seconds = _seconds(lambda: dist.all_reduce(values), device, rounds=rounds)
    return float(num_bytes / seconds * 2 * (ranks - 1) / ranks)


def _seconds(work: Callable[[], object], device: Device, *, rounds: int) -> float:
    for _ in range(3):
        work()
    _wait(device)
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    _wait(device)
    return (time.perf_counter() - began) / rounds


def _wait(device: Device) -> None:
    if device.kind == "cuda":
        torch.cuda.synchronize(device.index)


def main() -> None:
    """One process of the all-reduce; the leading one prints the figure."""
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    found = reduce_bandwidth(device, num_bytes=int(sys.argv[1]))
    collective.leave()
    if place.leads:
        print(json.dumps({"busbw": found}))


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    main()
