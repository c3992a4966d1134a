"""What the kernel and the devices count while a phase trains: bytes, what was sent again, errors.

A node's own counters say what no average of a step does: one cable that loses packets slows all.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curriculum_trainer import interfaces

ROOT = Path("/")

INTERVAL_SECONDS = 2.0
"""A HCA asks its firmware for each counter, some tens of microseconds every time."""

WORDS = 4
"""A HCA counts its data in words of four bytes."""

SENT = "port_xmit_data"
AGAIN = (*interfaces.RESENT, "rnr_nak_retry_err", "implied_nak_seq_err", "retrans_pkts")
"""Why a HCA had to send again; the last is EFA's."""

PORT_ERRORS = (
    "symbol_error",
    "link_error_recovery",
    "link_downed",
    "port_rcv_errors",
    "port_xmit_discards",
    "local_link_integrity_errors",
)
FRAME_ERRORS = ("rx_errors", "tx_errors", "tx_dropped", "rx_missed_errors")
"""Not rx_dropped: it counts frames that nobody asked for."""

KEYS = (
    "fabric/max_sent(GB/s)",
    "fabric/max_retransmitted(1/s)",
    "fabric/max_errors(1/s)",
)


@dataclass(frozen=True, slots=True)
class Counts:
    """One node's counters at one moment."""

    at: float
    sent_bytes: int
    again: int
    errors: int


def rates(before: Counts, after: Counts) -> tuple[float, float, float]:
    """GB, retransmissions and errors a second; a counter that was reset counts as none."""
    seconds = after.at - before.at
    return (
        max(0, after.sent_bytes - before.sent_bytes) / 1e9 / seconds,
        max(0, after.again - before.again) / seconds,
        max(0, after.errors - before.errors) / seconds,
    )


def read(hcas: Sequence[str], nets: Sequence[str], *, at: float, root: Path = ROOT) -> Counts:
    """The counters of the devices that are in use, and TCP's; RDMA does not show in interfaces."""
    ports = [p for hca in hcas for p in root.glob(f"sys/class/infiniband/{hca}/ports/*")]
    frames = [root / "sys/class/net" / name / "statistics" for name in nets]
    sent = WORDS * _sum(port / "counters" / SENT for port in ports)
    if not ports:
        sent = _sum(folder / "tx_bytes" for folder in frames)
    again = _sum(port / "hw_counters" / name for port in ports for name in AGAIN)
    errors = _sum(port / "counters" / name for port in ports for name in PORT_ERRORS)
    return Counts(
        at=at,
        sent_bytes=sent,
        again=again + interfaces.segments(root / "proc/net")[1],
        errors=errors + _sum(folder / name for folder in frames for name in FRAME_ERRORS),
    )


class Watch:
    """The rates since the last look, at most one look per interval."""

    def __init__(self, look: Callable[[float], Counts] | None) -> None:
        self._look = look
        self._last = look(time.monotonic()) if look else None
        self._rates = (-math.inf,) * len(KEYS)

    def rates(self) -> tuple[float, ...]:
        """By KEYS; minus infinity where nothing is known, so that the largest of all is known."""
        now = time.monotonic()
        if self._look and self._last and now - self._last.at >= INTERVAL_SECONDS:
            found = self._look(now)
            self._rates = rates(self._last, found)
            self._last = found
        return self._rates


def figures(largest: Sequence[float]) -> dict[str, float]:
    """Metrics of the largest rates of any node, without what is not known."""
    pairs = zip(KEYS, largest, strict=True)
    return {key: round(value, 4) for key, value in pairs if math.isfinite(value)}


def _sum(paths: Iterable[Path]) -> int:
    return sum(_number(path) for path in paths)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
