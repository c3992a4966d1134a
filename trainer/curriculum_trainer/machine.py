"""What the container may use, and whether the kernel has killed in it; only reads."""

import os
import resource
import shutil
import time
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cpus() -> int:
    """Processors that this container may keep busy, at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota, _, period = _read(_own_cgroup() / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        allowed = min(allowed, -(-int(quota) // int(period)))
    return max(1, allowed)


def busy_seconds() -> float:
    """Processor-seconds that all programs of this machine have taken since it was started."""
    first = _read(Path("/proc/stat")).partition("\n")[0].split()
    # user, nice, system; then idle and waiting; then interrupts and what a hypervisor took
    ticks = [int(word) for word in first[1:9]]
    return (sum(ticks) - sum(ticks[3:5])) / os.sysconf("SC_CLK_TCK") if ticks else 0.0


class Neighbours:
    """What other programs take of the processors, from its making on, beside ended children."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._others = busy_seconds() - _own_seconds()

    def share(self) -> float:
        """From 0 to 1 of all the processors there are."""
        taken = busy_seconds() - _own_seconds() - self._others
        there = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, taken / there)) if there else 0.0


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def has_c_compiler() -> bool:
    """Whether Triton can build what starts its kernels."""
    named = os.environ.get("CC")
    return any(shutil.which(name) for name in ((named,) if named else ("gcc", "clang", "cc")))


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


def resident_bytes() -> int:
    """The memory that this process holds now."""
    return peak_resident_bytes() - given_back_bytes()


def available_bytes() -> int | None:
    """Memory that can still be had: by the machine and by every group around this process."""
    known = _table(Path("/proc/meminfo")).get("MemAvailable:")
    rooms = [] if known is None else [known * 1024]
    group = _own_cgroup()
    for folder in (group, *group.parents):
        limit, used = _read(folder / "memory.max").strip(), _read(folder / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            # the kernel drops cached files before it refuses memory
            cached = _table(folder / "memory.stat").get("inactive_file", 0)
            rooms.append(max(0, int(limit) - int(used) + cached))
    return min(rooms, default=None)


def given_back_bytes() -> int:
    """How much more memory this process held at its peak than it holds now."""
    status = _table(Path("/proc/self/status"))
    return 1024 * max(0, status.get("VmHWM:", 0) - status.get("VmRSS:", 0))


def _table(path: Path) -> dict[str, int]:
    """The lines of a file that say a name and a number."""
    lines = [line.split() for line in _read(path).splitlines()]
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}


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
