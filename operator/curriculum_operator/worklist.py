"""A de-duplicating list of keys to work on, served by a few workers.

One key is never worked on by two at once. However often a key is woken while it waits, it is
worked on once; woken while it is worked on, once more afterwards. Work that fails is tried again
after a growing pause and never takes its worker along. It knows nothing of what the work is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from curriculum_operator import clock, cluster, lease

logger = logging.getLogger(__name__)

FAILURE_SECONDS_MAX = 60.0


class Worklist:
    """Keys that wait for `work`. Fatal is only `lease.Lost`: it ends `run`."""

    def __init__(self, work: Callable[[str], Awaitable[None]], *, workers: int) -> None:
        self.failures = 0
        """Unexpected exceptions so far."""

        self._work = work
        self._num_workers = workers
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: set[str] = set()
        self._busy: dict[str, float] = {}
        """Keys that are worked on, and since when by the loop's time."""

        self._again: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._failed: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    def wake(self, key: str) -> None:
        """Have it worked on soon."""
        if key in self._busy:
            self._again.add(key)
            return
        pause = self._not_before.get(key, 0.0) - clock.monotonic()
        if pause > 0:
            self.wake_in(key, pause)
            return
        if key not in self._waiting:
            self._waiting.add(key)
            self._queue.put_nowait(key)

    def wake_in(self, key: str, seconds: float) -> None:
        """Have it worked on after a while; an earlier time that was asked for stays."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        when = loop.time() + max(0.0, seconds)
        if timer is not None:
            if timer.when() <= when:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(when, self._ring, key)

    def forget(self, key: str) -> None:
        """Drop what is planned for a key that is no more."""
        self._waiting.discard(key)
        self._again.discard(key)
        self._failed.pop(key, None)
        self._not_before.pop(key, None)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def busy_seconds(self) -> float:
        """How long the longest present piece of work has taken; 0 where none is at work."""
        return clock.monotonic() - min(self._busy.values(), default=clock.monotonic())

    def idle(self) -> bool:
        """Nothing is worked on, and nothing waits but for a time to come."""
        return not self._busy and not self._waiting

    async def run(self) -> None:
        """Serve the list until cancelled, or until the Lease is lost."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._num_workers):
                    group.create_task(self._serve())
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def _serve(self) -> None:
        while True:
            key = await self._queue.get()
            if key not in self._waiting:
                continue
            self._waiting.discard(key)
            self._busy[key] = clock.monotonic()
            try:
                await self._attempt(key)
            finally:
                del self._busy[key]
                if key in self._again:
                    self._again.discard(key)
                    self.wake(key)

    async def _attempt(self, key: str) -> None:
        try:
            await self._work(key)
        except lease.Lost:
            raise
        except cluster.ClusterError as error:
            logger.warning("%s: %s: %s", key, type(error).__name__, error)
            self._postpone(key, getattr(error, "retry_after", None))
        except Exception:
            self.failures += 1
            logger.exception("%s: unexpected error", key)
            self._postpone(key, None)
        else:
            self._failed.pop(key, None)
            self._not_before.pop(key, None)

    def _postpone(self, key: str, at_least: float | None) -> None:
        self._failed[key] = self._failed.get(key, 0) + 1
        pause = max(clock.backoff(self._failed[key], most=FAILURE_SECONDS_MAX), at_least or 0.0)
        self._not_before[key] = clock.monotonic() + pause
        self.wake_in(key, pause)

    def _ring(self, key: str) -> None:
        self._timers.pop(key, None)
        self.wake(key)
