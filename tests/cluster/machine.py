"""Says in one line why a machine cannot hold the cluster; must not change anything."""

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from . import paths
from .errors import ClusterError
from .shell import run

_NEEDS: Final = (
    "the test cluster needs Linux on amd64, root with CAP_SYS_ADMIN and CAP_NET_ADMIN, cgroups, "
    "6 GiB of free memory and 15 GiB of free disk"
)
_MEMORY_GIB: Final = 6
_DISK_GIB: Final = 15
_CAP_NET_ADMIN: Final = 12
_CAP_SYS_ADMIN: Final = 21


def check() -> None:
    """Raise ClusterError where a cluster could not come up."""
    reason = _obstacle()
    if reason:
        raise ClusterError(f"{reason}: {_NEEDS}")


def _obstacle() -> str | None:
    if sys.platform != "linux":
        return f"this is {sys.platform}"
    if os.uname().machine != "x86_64":
        return f"this machine is {os.uname().machine}"
    if os.geteuid() != 0:
        return f"user id {os.geteuid()} is not root"
    capabilities = _capabilities()
    for name, bit in (("CAP_SYS_ADMIN", _CAP_SYS_ADMIN), ("CAP_NET_ADMIN", _CAP_NET_ADMIN)):
        if not capabilities & (1 << bit):
            return f"root here lacks {name}"
    if not _namespaces_work():
        return "this root may not make namespaces"
    if not os.access("/sys/fs/cgroup", os.W_OK) or not Path("/proc/cgroups").exists():
        return "/sys/fs/cgroup is not there or not writable"
    memory = _available_memory()
    if memory < _MEMORY_GIB * 2**30:
        return f"{memory / 2**30:.1f} GiB of memory free"
    disk = _free_disk()
    if disk < _DISK_GIB * 2**30:
        return f"{disk / 2**30:.1f} GiB of disk free in {paths.cache()}"
    return None


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _namespaces_work() -> bool:
    """Try it: a seccomp filter refuses what the capabilities would allow."""
    return (
        run("unshare", "--mount", "--pid", "--net", "--fork", "true", check=False).returncode == 0
    )


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _free_disk() -> int:
    folder = paths.cache()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
