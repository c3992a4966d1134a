"""The control groups of the nodes' pods, on cgroup v1 and v2; must not touch any other group."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from . import paths
from .errors import ClusterError

_ROOT: Final = Path("/sys/fs/cgroup")
_DEADLINE_SECONDS: Final = 10
_PERIOD: Final = 100_000
"""Microseconds; the kernel's own default."""


def of_node(node: str) -> str:
    """The group a node's kubelet puts its pods under, as its ``cgroupRoot``."""
    return f"/{paths.CGROUP}/{node}"


def create(node: str) -> None:
    for hierarchy in _hierarchies():
        parent = hierarchy
        for name in (paths.CGROUP, node):
            if _is_v2():
                _delegate(parent)
            group = parent / name
            group.mkdir(exist_ok=True)
            if hierarchy.name == "cpuset":
                # A v1 group without them holds no process.
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (group / file).write_text((parent / file).read_text())
            parent = group
        if _is_v2():
            _delegate(parent)


def remove_all() -> None:
    """Remove every group of ours; their processes must have ended."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while left := list(_groups()):
        for group in left:
            try:
                group.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise ClusterError(f"cannot remove control group {str(group)!r}") from None
        if left:
            time.sleep(0.02)


def left_over() -> list[Path]:
    return list(_groups())


def processes(node: str, container_id: str) -> list[int]:
    """The processes of one container as host pids."""
    hierarchy = _ROOT if _is_v2() else _ROOT / "pids"
    top = hierarchy / paths.CGROUP / node
    for group in top.glob(f"**/{container_id}"):
        files = [group / "cgroup.procs", *group.glob("**/cgroup.procs")]
        return sorted({int(pid) for file in files for pid in file.read_text().split()})
    return []


def limit_processors(node: str, share: float | None) -> None:
    """Let all pods of a node together use this share of one processor; None lifts the limit."""
    quota = None if share is None else round(share * _PERIOD)
    if _is_v2():
        group = _ROOT / paths.CGROUP / node
        (group / "cpu.max").write_text(f"{'max' if quota is None else quota} {_PERIOD}")
        return
    group = _ROOT / "cpu" / paths.CGROUP / node
    (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
    (group / "cpu.cfs_quota_us").write_text(str(-1 if quota is None else quota))


def _groups() -> Iterator[Path]:
    """Ours, the deepest first."""
    for hierarchy in _hierarchies():
        top = hierarchy / paths.CGROUP
        if top.is_dir():
            yield from sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
            yield top


def _hierarchies() -> list[Path]:
    if _is_v2():
        return [_ROOT]
    folders = [path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink()]
    return [path for path in folders if (path / "cgroup.procs").exists()]


def _is_v2() -> bool:
    return (_ROOT / "cgroup.controllers").exists()


def _delegate(group: Path) -> None:
    """Let groups below a v2 group use every controller it has."""
    for controller in (group / "cgroup.controllers").read_text().split():
        try:
            (group / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            continue  # one that the parent keeps to itself; kubelet names it if it needs it
