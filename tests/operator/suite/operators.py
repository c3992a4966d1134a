"""Operator processes as a play starts, kills and replaces them."""

import asyncio
import contextlib
from dataclasses import replace

from curriculum_api.preflight.figures import Measured
from curriculum_api.run import PhaseRun
from curriculum_operator import cluster, kinds, lease, observe
from curriculum_operator.clock import Clock
from curriculum_operator.cluster import Cluster
from curriculum_operator.engine import Engine
from curriculum_operator.settings import Settings

from ..memory.link import Faults, Link


class Operator:
    """One process: an engine, fed with curricula the way kopf feeds it, on its own link."""

    def __init__(
        self,
        to: Cluster,
        settings: Settings,
        clock: Clock,
        *,
        number: int,
        faults: Faults,
        timing: lease.Timing,
    ) -> None:
        self.link = Link(to, faults, seed=number)
        settings = replace(settings, identity=f"operator-{number}")
        self.engine = Engine(self.link, settings, clock, timing=timing)
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin."""
        self._task = group.create_task(self._run(), name="operator")

    async def kill(self) -> None:
        """End it as SIGKILL does: nothing more is written, the Lease stays."""
        self.link.dead.set()
        await self._cancel()

    async def stop(self) -> None:
        """End it as SIGTERM does."""
        await self._cancel()
        await self.engine.release()
        self.link.dead.set()

    def report(self, run: PhaseRun, percent: int, measured: Measured | None = None) -> None:
        """A trainer's progress; only a process that is ready hears it."""
        if self.link.dead.is_set() or not self.engine.ready:
            return
        beat = observe.Beat(
            received=self._clock.now(), percentage=percent, remaining_seconds=None, metrics=()
        )
        attempt = (run.curriculum_uid, run.phase, run.attempt)
        self.engine.beat(*attempt, beat)
        if measured is not None:
            self.engine.measured(*attempt, measured)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.engine.run(), name="engine")
            group.create_task(self._feed(), name="curricula")

    async def _feed(self) -> None:
        while True:
            try:
                items, version = await self.link.list(kinds.CURRICULA)
                for raw in items:
                    self.engine.curriculum_event(None, raw)
                while True:
                    stream = self.link.watch(kinds.CURRICULA, resource_version=version)
                    async for event, raw in stream:
                        version = raw["metadata"]["resourceVersion"]
                        if event != "BOOKMARK":
                            self.engine.curriculum_event(event, raw)
            except (cluster.Gone, cluster.Unavailable):
                await asyncio.sleep(0.1)

    async def _cancel(self) -> None:
        assert self._task is not None, "ended before it was started"
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
