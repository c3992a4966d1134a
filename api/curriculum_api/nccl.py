"""Which NCCL may be trained with."""

from typing import Final

SOUND: Final = "2.29.3"
"""Before it, NCCL can deadlock on arm64 without a word (NVIDIA/nccl#2353)."""

UNSOUND_ON: Final = frozenset({"arm64", "aarch64"})
"""Kubernetes' name and the kernel's."""


def deadlocks(version: tuple[int, ...], architecture: str) -> bool:
    """Whether this NCCL can deadlock on a CPU of this architecture."""
    return architecture in UNSOUND_ON and version < tuple(map(int, SOUND.split(".")))
