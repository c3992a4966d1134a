"""What time it is: the one place where the edge asks.

Waiting goes through asyncio, so a test that warps its loop's time needs only its own Clock.
"""

import asyncio
import random
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The wall clock."""

    def now(self) -> datetime:
        """The time, aware of its zone."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


def monotonic() -> float:
    """Seconds of the running loop: what is waited by, and never goes back."""
    return asyncio.get_running_loop().time()


def backoff(failures: int, *, first: float = 1.0, most: float = 60.0) -> float:
    """Seconds to wait after the n-th failure in a row: doubling, spread by a fifth."""
    assert failures >= 1
    return min(most, first * 2.0 ** min(failures - 1, 20)) * random.uniform(0.8, 1.2)
