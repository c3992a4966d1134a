"""An event loop whose time jumps: whoever waits is woken at once, in the order of their waiting.

A day of a cluster takes as long as its events take to compute, and the same run gives the same
interleaving every time. Threads have no place in it: nothing here waits for the real world.
"""

import asyncio
import selectors
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Deadlock(RuntimeError):
    """Everybody waits, and nothing is planned that could wake anybody."""


class _Selector(selectors.BaseSelector):
    """Where a loop would sleep, time passes instead."""

    def __init__(self) -> None:
        self.now = 0.0
        self._real = selectors.DefaultSelector()

    def register(
        self, fileobj: "FileDescriptorLike", events: int, data: object = None
    ) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: "FileDescriptorLike") -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:
            # Nothing outside this loop can become ready, so the kernel is not asked.
            return []
        ready = self._real.select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock("every task waits for another one")
        self.now += max(0.0, timeout)
        return []

    def get_map(self) -> "Mapping[FileDescriptorLike, selectors.SelectorKey]":
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class WarpLoop(asyncio.SelectorEventLoop):
    """A loop whose time is computed, not measured."""

    def __init__(self) -> None:
        self._warp = _Selector()
        super().__init__(self._warp)

    def time(self) -> float:
        return self._warp.now


class WarpClock:
    """The wall clock that goes with a WarpLoop; `drift` seconds off."""

    def __init__(self, *, drift: float = 0.0) -> None:
        self.drift = drift

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time() + self.drift)
