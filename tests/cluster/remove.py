"""Takes away everything a cluster left on the machine, also one that crashed half-way.

Must not touch anything that is not ours: processes are known by their machine, folders and
control groups by their names.
"""

import shutil
from pathlib import Path

from . import cgroups, namespaces, network, node, paths
from .errors import ClusterError


def everything() -> None:
    """End the machines; their mounts, interfaces and firewall rules go with them."""
    namespaces.kill_all()
    network.disconnect_host()
    cgroups.remove_all()
    node.remove_fixed_places()
    for folder in {paths.live(), *_linked()}:
        _remove(folder)
    _remove(paths.RUN)


def left_over() -> list[str]:
    """What is still there of a cluster; empty after `everything`."""
    return [
        *(f"process {machine.pid} ({machine.name})" for machine in namespaces.alive()),
        *(f"control group {group}" for group in cgroups.left_over()),
        *(f"interface {name}" for name in network.left_over()),
        *(f"mount {place}" for place in _mounts()),
        *(f"folder {folder}" for folder in (paths.RUN, paths.live()) if folder.exists()),
    ]


def _linked() -> list[Path]:
    """The live folder of whoever started the cluster, perhaps with another cache."""
    return [paths.LIVE_LINK.readlink()] if paths.LIVE_LINK.is_symlink() else []


def _remove(folder: Path) -> None:
    inside = [place for place in _mounts() if place.is_relative_to(folder)]
    if inside:
        raise ClusterError(f"not removing {str(folder)!r}: {str(inside[0])!r} is mounted there")
    if folder.exists():
        shutil.rmtree(folder)


def _mounts() -> list[Path]:
    """Mounts in our folders, as the host sees them."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
    ours = (paths.RUN, paths.live(), *_linked())
    return [place for place in places if any(place.is_relative_to(folder) for folder in ours)]
