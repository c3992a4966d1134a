"""The network of this node as the kernel shows it: the interfaces that the fabric's environment
names, their speed and MTU, and what was sent again or lost. Only reads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SYS = Path("/sys/class")
PROC = Path("/proc/net")

BAD_FRAMES = ("rx_errors", "tx_errors", "rx_crc_errors")
FRAMES = ("rx_packets", "tx_packets")

RESENT = ("packet_seq_err", "local_ack_timeout_err", "roce_adp_retrans")
"""A HCA's counters of what it had to send again; RoCE does not show in those of the interface."""


@dataclass(frozen=True, slots=True)
class Interfaces:
    """What the fabric uses: network interfaces, and ports of HCAs (`rocep1s0f1/1`)."""

    nets: tuple[str, ...]
    ports: tuple[str, ...]
    root: Path = SYS

    def speed(self) -> float | None:
        """Gb/s of the slowest; an HCA's port goes before its interface. None where none says."""
        rates = [_rate(self._port(port) / "rate") for port in self.ports]
        if not self.ports:
            rates = [_megabits(self.root / "net" / net / "speed") for net in self.nets]
        return min((rate for rate in rates if rate), default=None)

    def mtu(self) -> float | None:
        """The smallest; of the HCAs' interfaces where there are any."""
        nets = [*self._nets_of_ports()] or self.nets
        found = [_number(self.root / "net" / net / "mtu") for net in nets]
        return min((mtu for mtu in found if mtu), default=None)

    def frames(self) -> tuple[int, int]:
        """Frames that went through, and frames that did not."""
        nets = dict.fromkeys((*self.nets, *self._nets_of_ports()))
        folders = [self.root / "net" / net / "statistics" for net in nets]
        good = sum(_number(folder / name) or 0 for folder in folders for name in FRAMES)
        bad = sum(_number(folder / name) or 0 for folder in folders for name in BAD_FRAMES)
        return good, bad

    def resent(self) -> tuple[int, int]:
        """What HCAs sent, and sent again, in packets."""
        sent = sum(
            _number(self._port(port) / "counters/port_xmit_packets") or 0 for port in self.ports
        )
        again = sum(
            _number(self._port(port) / "hw_counters" / name) or 0
            for port in self.ports
            for name in RESENT
        )
        return sent, again

    def _port(self, port: str) -> Path:
        hca, _, number = port.partition("/")
        return self.root / "infiniband" / hca / "ports" / number

    def _nets_of_ports(self) -> Iterable[str]:
        for port in self.ports:
            hca = port.partition("/")[0]
            yield from _entries(self.root / "infiniband" / hca / "device/net")


def named(environment: Mapping[str, str], root: Path = SYS) -> Interfaces:
    """The interfaces and ports that the fabric's environment names and this node has."""
    # gloo's names are whole, NCCL's are prefixes
    gloo = environment.get("GLOO_SOCKET_IFNAME")
    asked = environment.get("NCCL_SOCKET_IFNAME") or (f"={gloo}" if gloo else "")
    nets = matching(asked, [name for name in _entries(root / "net") if name != "lo"])
    hcas: list[str] = []
    if environment.get("NCCL_IB_DISABLE") != "1":
        there = _entries(root / "infiniband")
        hcas = matching(environment.get("NCCL_IB_HCA", ""), there)
    ports = [f"{hca}/{port}" for hca in hcas for port in _entries(root / f"infiniband/{hca}/ports")]
    return Interfaces(nets=tuple(nets), ports=tuple(ports), root=root)


def segments(root: Path = PROC) -> tuple[int, int]:
    """TCP segments that this network namespace has sent, and sent again."""
    try:
        rows = [line.split() for line in (root / "snmp").read_text().splitlines()]
    except OSError:
        return 0, 0
    names, values = (row for row in rows if row and row[0] == "Tcp:")
    known = dict(zip(names[1:], values[1:], strict=True))
    return int(known["OutSegs"]), int(known["RetransSegs"])


def matching(asked: str, there: Iterable[str]) -> list[str]:
    """By NCCL's rules: names are prefixes, `=` makes them whole, `^` those to leave out."""
    out, whole = asked.startswith("^"), asked.lstrip("^").startswith("=")
    wanted = [part.partition(":")[0] for part in asked.lstrip("^=").split(",") if part]

    def meant(name: str) -> bool:
        if whole:
            return name in wanted
        return any(name.startswith(prefix) for prefix in wanted)

    return sorted(name for name in there if wanted and meant(name) != out)


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        # an interface that is down refuses to say its speed
        return None


def _megabits(path: Path) -> float | None:
    speed = _number(path)
    return speed / 1000 if speed and speed > 0 else None


def _rate(path: Path) -> float | None:
    """`200 Gb/sec (4X HDR)`."""
    try:
        return float(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
