"""What one node does by itself: multiplies, has memory left, writes and reads a checkpoint.

Bursts are short and the best of them counts: what a neighbour disturbed is no verdict, and what is
slow by itself is slow in all of them. A burst is still longer than the period in which the kernel
deals out processor time, or a node on a quota would look sound.
"""

import ctypes
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from curriculum_api.preflight.figures import Check, Figures
from curriculum_api.preflight.schedule import STORAGE_SECONDS
from curriculum_api.wire import Precision
from curriculum_trainer import machine
from curriculum_trainer.precision import Device

BURSTS = 5
BURST_SECONDS = 0.25
"""More than two of the 0.1 s in which a processor quota is dealt out."""

SIDES = {"cuda": 8192, "cpu": 768}
"""Matrices that fill the device, and whose product is still short against a burst."""

BLOCK_BYTES = 8 << 20
WRITE_SECONDS = 0.65 * STORAGE_SECONDS
READ_SECONDS = 0.25 * STORAGE_SECONDS
"""Blocks are written, and each brought to the disk, until the time is over."""

FILE_BYTES = 512 << 20

GB, GIB, TERA = 1e9, 2**30, 1e12

_CPUS = Path("/sys/devices/system/cpu")
_NVML_SM_CLOCK = 1


class Product:
    """A matrix product that fills the device, in one number format."""

    def __init__(self, device: Device, precision: Precision) -> None:
        self._device = device
        kind = torch.float32 if precision is Precision.FP32 else torch.bfloat16
        self._side = side = SIDES[device.kind]
        self._one, self._other = (
            torch.randn(side, side, device=device.name).to(kind) for _ in range(2)
        )
        self._out = torch.empty(side, side, device=device.name, dtype=kind)
        self._multiply()

    def burst(self) -> Figures:
        """TFLOPS of one burst, and the clock meanwhile."""
        rate = burst(self._multiply, self._device)
        figures: Figures = {Check.MATMUL: 2 * self._side**3 * rate / TERA}
        speed = clock(self._device, busy=self._multiply)
        return figures | {Check.CLOCK: speed} if speed else figures

    def _multiply(self) -> object:
        return torch.matmul(self._one, self._other, out=self._out)


def burst(work: Callable[[], object], device: Device, seconds: float = BURST_SECONDS) -> float:
    """How often a second the device can do `work`."""
    began = time.perf_counter()
    times = 0
    while True:
        work()
        times += 1
        if device.kind == "cuda":
            torch.cuda.synchronize(device.index)
        elapsed = time.perf_counter() - began
        if elapsed >= seconds:
            return times / elapsed


def memory() -> Figures:
    """What the host can still give."""
    available = machine.available_bytes()
    return {} if available is None else {Check.MEMORY: available / GIB}


def boot() -> str:
    """The kernel's boot ID: alike where "nodes" are containers of one machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def clock(device: Device, *, busy: Callable[[], object]) -> float | None:
    """MHz while the device works; None where nothing says it."""
    if device.kind == "cuda":
        for _ in range(8):
            busy()
        mhz = None
        # a driver without NVML, as in some containers, says nothing
        with suppress(OSError, AttributeError):
            mhz = _nvml_clock(str(torch.cuda.get_device_properties(device.index).uuid))
        torch.cuda.synchronize(device.index)
        return mhz
    busy()
    told = [path.read_text() for path in _CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    return max((int(text) / 1000 for text in told), default=None)


def _nvml_clock(uuid: str) -> float | None:
    """By the driver's own library: torch asks it through a package that need not be there."""
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    if nvml.nvmlInit_v2():
        return None
    try:
        handle, mhz = ctypes.c_void_p(), ctypes.c_uint()
        name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
        if nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)):
            return None
        if nvml.nvmlDeviceGetClockInfo(handle, _NVML_SM_CLOCK, ctypes.byref(mhz)):
            return None
        return float(mhz.value)
    finally:
        nvml.nvmlShutdown()


def storage(path: Path) -> Figures:
    """GB/s to and from a file here, each block brought to the disk, and read past the cache."""
    block = os.urandom(1 << 20) * (BLOCK_BYTES >> 20)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600)
    try:
        began, written = time.perf_counter(), 0
        while written < FILE_BYTES:
            written += os.write(handle, block)
            os.fdatasync(handle)
            if time.perf_counter() - began >= WRITE_SECONDS:
                break
        took = time.perf_counter() - began
        figures: Figures = {Check.WRITE: written / took / GB}
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(handle, 0, os.SEEK_SET)
        began, read = time.perf_counter(), 0
        while got := len(os.read(handle, BLOCK_BYTES)):
            read += got
            if time.perf_counter() - began >= READ_SECONDS:
                break
        return figures | {Check.READ: read / max(time.perf_counter() - began, 1e-9) / GB}
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)
