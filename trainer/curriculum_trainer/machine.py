"""What the container may use, and whether the kernel has killed in it; only reads."""

import os
import resource
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cpus() -> int:
    """Processors that this container may keep busy, at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota, _, period = _read(_own_cgroup() / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        allowed = min(allowed, -(-int(quota) // int(period)))
    return max(1, allowed)


def oom_kills() -> int:
    """How often the kernel has killed in this container for want of memory."""
    for line in _read(_own_cgroup() / "memory.events").splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isdigit():
            return int(count)
    return 0


def peak_resident_bytes() -> int:
    """The most memory that this process has held since it was started.

    Not `getrusage`, which counts in what the process was before it became this program.
    """
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    # macOS has no /proc, and counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _own_cgroup() -> Path:
    """Inside a container its own group is the root of what it sees."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        if line.startswith("0::"):
            own = _CGROUP / line[3:].lstrip("/")
            return own if own.is_dir() else _CGROUP
    return _CGROUP


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
