"""What this pod has for RDMA, and its addresses; only reads."""

import contextlib
import fcntl
import resource
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from curriculum_trainer.fabric_cause import Hca, Pod

ROOT = Path("/")

IPC_LOCK = 14
"""Its number among Linux' capabilities."""

_SIOCGIFADDR = 0x8915
_NAME_BYTES = 15


def read(environment: Mapping[str, str], root: Path = ROOT) -> Pod:
    """Look at devices, limits and what the kernel shows."""
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    capabilities = int(_value(root / "proc/self/status", "CapEff:") or "0", 16)
    contiguous = _value(root / "proc/meminfo", "CmaTotal:")
    return Pod(
        verbs=any(root.glob("dev/infiniband/uverbs*")),
        hcas=tuple(_hcas(root / "sys/class/infiniband")),
        locked_bytes=None if locked == resource.RLIM_INFINITY else locked,
        may_lock=bool(capabilities >> IPC_LOCK & 1),
        contiguous_bytes=int(contiguous) * 1024 if contiguous.isdigit() else None,
        environment={n: v for n, v in environment.items() if n.startswith("NCCL_")},
    )


def gloo_interface(environment: Mapping[str, str]) -> str:
    """What gloo listens on: the interface it was told, or that of the host name's address."""
    named = environment.get("GLOO_SOCKET_IFNAME", "")
    if named:
        return named
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        return "lo"
    if address.startswith("127."):
        return "lo"
    names = (name for _, name in socket.if_nameindex())
    return next((name for name in names if _address(name) == address), address)


def _hcas(folder: Path) -> Iterable[Hca]:
    for device in sorted(folder.glob("*")):
        ports = sorted((device / "ports").glob("*"))
        yield Hca(
            name=device.name,
            interface=next((path.name for path in sorted(device.glob("device/net/*"))), ""),
            active=any("ACTIVE" in _text(port / "state") for port in ports),
            roce=any("Ethernet" in _text(port / "link_layer") for port in ports),
            addressed=any(_addressed(port) for port in ports),
        )


def _addressed(port: Path) -> bool:
    """Whether a GID is there that this pod may use, and that is not link-local."""
    for gid in (port / "gids").glob("*"):
        text = _text(gid)
        # the type of a GID that belongs to another network namespace cannot be read
        own = _text(port / "gid_attrs/types" / gid.name)
        if own and text.strip("0:") and not text.startswith("fe80:"):
            return True
    return False


def _address(interface: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("256s", interface.encode()[:_NAME_BYTES])
        with contextlib.suppress(OSError):
            return socket.inet_ntoa(fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, request)[20:24])
    return ""


def _value(path: Path, name: str) -> str:
    rows = (line.split() for line in _text(path).splitlines())
    return next((row[1] for row in rows if len(row) > 1 and row[0] == name), "")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
