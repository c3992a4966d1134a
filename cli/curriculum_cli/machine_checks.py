"""What this machine must have to train: one function a check, a value in, a row out. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from curriculum_api.check import Check, Verdict

PYTHON = (3, 11)

SOUND_NCCL = (2, 29, 3)
"""Before it, NCCL can deadlock on arm64 without a word (NVIDIA/nccl#2353)."""

BF16_FROM = (8, 0)
"""The first compute capability that multiplies BF16."""

LEAST_MEMORY, ENOUGH_MEMORY = 2 << 30, 4 << 30
"""A training process takes most of a GiB before its model."""

LEAST_DISK, ENOUGH_DISK = 1 << 30, 10 << 30
"""The checkpoints of the smallest preset, and two of a model of 0.4 billion parameters."""

LEAST_SHARED = 1 << 30
"""NCCL and the loaders of several processes exchange through /dev/shm; Docker gives 64 MiB."""

WRITE_RATE = 500e6
"""Bytes a second that a class promises by default (`checkpointBandwidthMBps`)."""

BROKEN_KERNEL = "7.0.0-"
"""On a DGX Spark these register no memory for RDMA unless started with `kho=off`."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device, by its driver."""

    name: str
    capability: tuple[int, int]
    driver: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found; None where it is not there."""

    python: tuple[int, ...]
    torch: str | None
    deepspeed: str | None
    architecture: str
    kernel: str
    kernel_options: str
    cpus: int
    memory_free: int | None
    shared_memory: int | None
    folder: str
    disk_free: int
    write_rate: float | None
    """None where the folder cannot be written."""

    gpu_files: int
    """Devices below /dev."""

    gpus: Sequence[Gpu]
    nccl: tuple[int, ...] | None


def rows(facts: Facts) -> Iterable[Check]:
    """Every check of this machine."""
    yield python(facts.python)
    yield torch(facts.torch)
    yield deepspeed(facts.deepspeed)
    yield kernel(facts.kernel, facts.kernel_options, facts.architecture)
    yield processors(facts.cpus)
    if facts.memory_free is not None:
        yield memory(facts.memory_free)
    if facts.shared_memory is not None:
        yield shared_memory(facts.shared_memory)
    yield disk(facts.disk_free, facts.folder)
    yield writing(facts.write_rate, facts.folder)
    yield devices(facts.gpu_files, facts.gpus)
    for number, gpu in enumerate(facts.gpus):
        yield capability(number, gpu)
    if facts.gpus or facts.nccl is not None:
        yield nccl(facts.nccl, facts.architecture)


def python(version: Sequence[int]) -> Check:
    """The interpreter."""
    fits = tuple(version[:2]) >= PYTHON
    return _row("Python", _spelt(version), fits, floor=_spelt(PYTHON), remedy="install a newer one")


def torch(version: str | None) -> Check:
    """Whether the trainer can start."""
    remedy = "install curriculum-operator[trainer]"
    return _row("torch", version or "not installed", version is not None, remedy=remedy)


def deepspeed(version: str | None) -> Check:
    """Whether phases can be sharded."""
    remedy = "ZeRO phases need it: install curriculum-operator[trainer]"
    return _row(
        "DeepSpeed", version or "not installed", version is not None, remedy=remedy,
        otherwise=Verdict.WARN,
    )  # fmt: skip


def kernel(release: str, options: str, architecture: str) -> Check:
    """Whether memory can be registered for RDMA."""
    broken = (
        _is_arm(architecture)
        and release.startswith(BROKEN_KERNEL)
        and "kho=off" not in options.split()
    )
    remedy = "RDMA cannot register memory: start with kho=off, or use a 6.17 kernel"
    return _row("kernel", release, not broken, remedy=remedy, otherwise=Verdict.WARN)


def processors(count: int) -> Check:
    """Processors that a trainer may keep busy."""
    remedy = "loading and saving hold up training: give the container two"
    return _row("CPUs", str(count), count >= 2, floor="2", remedy=remedy, otherwise=Verdict.WARN)


def memory(free: int) -> Check:
    """Memory of the machine that is free, or can be freed."""
    return _room(
        "memory free", free, least=LEAST_MEMORY, enough=ENOUGH_MEMORY,
        remedy="end other programs or raise the container's limit",
    )  # fmt: skip


def shared_memory(size: int) -> Check:
    """The size of /dev/shm."""
    remedy = "processes exchange through it: start the container with --shm-size 8g"
    return _row(
        "/dev/shm", _gib(size), size >= LEAST_SHARED, floor=_gib(LEAST_SHARED), remedy=remedy,
        otherwise=Verdict.WARN,
    )  # fmt: skip


def disk(free: int, folder: str) -> Check:
    """Room for checkpoints."""
    return _room(
        "disk free", free, least=LEAST_DISK, enough=ENOUGH_DISK,
        remedy=f'free space below "{folder}", or choose another --checkpoints folder',
    )  # fmt: skip


def writing(rate: float | None, folder: str) -> Check:
    """How fast checkpoints are written."""
    if rate is None:
        remedy = f'make "{folder}" writable, or choose another --checkpoints folder'
        return _row("disk write", "not writable", False, remedy=remedy)
    told = f"{rate / 1e6:,.0f} MB/s"
    remedy = f"saves take longer: set the class's checkpointBandwidthMBps to {rate / 1e6:.0f}"
    return _row(
        "disk write", told, rate >= WRITE_RATE, floor=f"{WRITE_RATE / 1e6:,.0f} MB/s",
        remedy=remedy, otherwise=Verdict.WARN,
    )  # fmt: skip


def devices(files: int, gpus: Sequence[Gpu]) -> Check:
    """Whether the driver answers for every device that is there."""
    if not files and not gpus:
        return _row("GPUs", "none: phases train on the CPU", True)
    names = ", ".join(sorted({gpu.name for gpu in gpus})) or "the driver does not answer"
    remedy = "nvidia-smi must list every device of /dev: restart the driver, or mount its libraries"
    return _row(
        "GPUs", f"{len(gpus)}: {names}", len(gpus) >= files, floor=str(files), remedy=remedy
    )


def capability(number: int, gpu: Gpu) -> Check:
    """What a device can multiply."""
    value = f"{_spelt(gpu.capability)}, driver {gpu.driver}"
    return _row(
        f"GPU {number} capability", value, gpu.capability >= BF16_FROM, floor=_spelt(BF16_FROM),
        remedy="it multiplies no BF16: train in FP32", otherwise=Verdict.WARN,
    )  # fmt: skip


def nccl(version: tuple[int, ...] | None, architecture: str) -> Check:
    """Whether processes on GPUs can rely on their collectives."""
    if version is None:
        remedy = "several GPUs need it: install a torch built for CUDA"
        return _row("NCCL", "not installed", False, remedy=remedy, otherwise=Verdict.WARN)
    arm = _is_arm(architecture)
    remedy = f"it can deadlock on arm64: install {_spelt(SOUND_NCCL)} or newer"
    floor = _spelt(SOUND_NCCL) if arm else ""
    fits = not arm or version >= SOUND_NCCL
    return _row("NCCL", _spelt(version), fits, floor=floor, remedy=remedy)


def _room(name: str, free: int, *, least: int, enough: int, remedy: str) -> Check:
    otherwise = Verdict.FAIL if free < least else Verdict.WARN
    return _row(
        name, _gib(free), free >= enough, floor=_gib(enough), remedy=remedy, otherwise=otherwise
    )


def _row(
    name: str,
    value: str,
    fits: bool,
    *,
    floor: str = "",
    remedy: str = "",
    otherwise: Verdict = Verdict.FAIL,
) -> Check:
    verdict = Verdict.PASS if fits else otherwise
    return Check(
        name=name, verdict=verdict, value=value, floor=floor, remedy="" if fits else remedy
    )


def _is_arm(architecture: str) -> bool:
    return architecture in ("arm64", "aarch64")


def _spelt(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
