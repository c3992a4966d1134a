"""Installs the Debian packages whose programs are missing; touches no service of the machine."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .errors import ClusterError
from .shell import run

# By the program, not the package: a machine may have containerd from elsewhere.
_PACKAGE_OF: Final = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
CNI_PLUGINS: Final = Path("/usr/lib/cni")
_CA_BUNDLE: Final = Path("/etc/ssl/certs/ca-certificates.crt")


def install_missing(say: Callable[[str], None]) -> None:
    """Install what is not there, without starting the services the packages bring."""
    packages = missing()
    if not packages:
        return
    if not shutil.which("apt-get"):
        raise ClusterError(
            f"cannot install {' '.join(packages)}: no apt-get here; install them by hand"
        )
    say(f"installing Debian packages: {' '.join(packages)}")
    # RUNLEVEL=1 keeps invoke-rc.d from starting containerd: every node brings its own.
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ("apt-get", "install", "--yes", "--no-install-recommends", *packages)
    if run(*install, env=quiet, check=False).returncode != 0:
        run("apt-get", "update", env=quiet)
        run(*install, env=quiet)


def missing() -> list[str]:
    packages = {package for program, package in _PACKAGE_OF.items() if not shutil.which(program)}
    if not (CNI_PLUGINS / "bridge").exists():
        packages.add("containernetworking-plugins")
    if not _CA_BUNDLE.exists():
        packages.add("ca-certificates")
    return sorted(packages)
