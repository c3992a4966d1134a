"""A play: a cluster with its actors, operators that come and go, and what is to be seen of them.

The same plays run on the cluster in memory and on a real API server; a Backend says which.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from curriculum_api.preflight.figures import Measured
from curriculum_api.run import PhaseRun
from curriculum_operator import cluster, kinds, lease, names
from curriculum_operator.clock import Clock
from curriculum_operator.cluster import Kind, Raw
from curriculum_operator.settings import Settings

from ..memory.datacentre import Datacentre
from ..memory.informer import Admin
from ..memory.kubelets import Witness
from ..memory.link import Crash, Faults, Write
from ..memory.script import Script
from . import documents
from .documents import NAMESPACE
from .operators import Operator


@dataclass(frozen=True, slots=True)
class Tempo:
    """How fast a backend plays."""

    beat_seconds: float
    """A beat of the script."""

    settings: Settings
    lease: lease.Timing
    patience: float
    """Beats that a play waits for what must come."""

    calm: float
    """Beats in which nothing more happens, once nothing more is to happen."""

    latency: float = 0.0
    """Seconds from an operator to the server."""


@dataclass(slots=True)
class Stage:
    """One play's cluster."""

    admin: Admin
    clock: Clock
    tempo: Tempo
    group: asyncio.TaskGroup
    script: Script = field(default_factory=Script)
    operators: list[Operator] = field(default_factory=list)
    jobs_overlapped: list[str] = field(default_factory=list)
    """Moments in which a curriculum had two live jobs: there must be none."""

    datacentre: Datacentre = field(init=False)

    def __post_init__(self) -> None:
        self.datacentre = Datacentre(
            self.admin,
            self.clock,
            self.script,
            report=self._report,
            beat_seconds=self.tempo.beat_seconds,
        )

    # Operators.

    def operator(
        self, *, faults: Faults | None = None, settings: Settings | None = None
    ) -> Operator:
        """Start one more operator process."""
        faults = faults or Faults()
        faults.latency = faults.latency or self.tempo.latency
        one = Operator(
            self.admin,
            settings or self.tempo.settings,
            self.clock,
            number=len(self.operators) + 1,
            faults=faults,
            timing=self.tempo.lease,
        )
        self.operators.append(one)
        one.start(self.group)
        return one

    async def crashing(self, crash: Crash) -> bool:
        """Start an operator that dies at one write, and another once it has died.

        Returns False where it never came to that write, also a while after the end.
        """
        first = self.operator(faults=Faults(crash=crash))
        over = self.group.create_task(self._over())
        died = self.group.create_task(first.link.dead.wait())
        await asyncio.wait({over, died}, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if not died.done():
            died.cancel()
            return False
        await first.kill()
        self.operator()
        await self._over()
        return True

    async def _over(self) -> None:
        await self.until_ended()
        await self.passes(5)

    # What a play does.

    async def submit(self, body: Raw) -> Raw:
        """Create an object as a user does."""
        return await self.admin.create(kinds.of(body), body)

    async def edit(
        self, name: str, change: Callable[[Raw], object], kind: Kind = kinds.CURRICULA
    ) -> None:
        """Change an object as a user does, again where somebody else was faster."""
        namespace = NAMESPACE if kind.namespaced else None
        while True:
            raw = await self.admin.get(kind, name, namespace)
            change(raw)
            try:
                await self.admin.replace(kind, raw)
                return
            except cluster.Conflict:
                continue

    async def remove(self, kind: Kind, name: str) -> None:
        """Delete an object as a user does."""
        await self.admin.delete(kind, name, NAMESPACE if kind.namespaced else None)

    async def passes(self, beats: float) -> None:
        """Let time pass."""
        await asyncio.sleep(beats * self.tempo.beat_seconds)

    # What is to be seen.

    @property
    def witness(self) -> Witness:
        return self.datacentre.kubelets.witness

    @property
    def writes(self) -> list[Write]:
        """What all operators wrote so far."""
        return [write for one in self.operators for write in one.link.writes]

    def status(self, name: str = "slm") -> dict[str, Any]:
        """A curriculum's status."""
        raw = self.datacentre.view.find(kinds.CURRICULA, name, NAMESPACE)
        status: dict[str, Any] = (raw or {}).get("status") or {}
        return status

    def phase(self, phase: str, name: str = "slm") -> dict[str, Any]:
        """A phase's status."""
        for one in self.status(name).get("phases") or ():
            if one["name"] == phase:
                found: dict[str, Any] = one
                return found
        return {}

    def condition(self, kind: str, name: str = "slm") -> Raw:
        """One condition of a curriculum."""
        for one in self.status(name).get("conditions") or ():
            if one["type"] == kind:
                found: Raw = one
                return found
        return {}

    def live_jobs(self, name: str = "slm") -> list[str]:
        """Jobs of a curriculum that are neither finished nor going."""
        return [
            job["metadata"]["name"]
            for job in self.datacentre.view.all(kinds.PYTORCHJOBS)
            if job["metadata"]["labels"].get(names.CURRICULUM_LABEL) == name
            and not finished(job)
            and "deletionTimestamp" not in job["metadata"]
        ]

    async def watch_jobs(self) -> None:
        """Note every moment in which a curriculum has two live jobs."""
        view = self.datacentre.view
        while True:
            for raw in view.all(kinds.CURRICULA):
                live = self.live_jobs(raw["metadata"]["name"])
                if len(live) > 1 and str(live) not in self.jobs_overlapped:
                    self.jobs_overlapped.append(str(live))
            seen = view.turns
            await view.turn_after(seen)

    async def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something is to be seen."""
        seconds = self.tempo.patience * self.tempo.beat_seconds
        view = self.datacentre.view
        try:
            async with asyncio.timeout(seconds):
                async with view.changed:
                    await view.changed.wait_for(lambda: bool(holds()))
        except TimeoutError:
            raise AssertionError(f"never seen: {what}\n{self.story()}") from None

    async def until_state(
        self, state: str, phase: str, name: str = "slm", attempt: int = 0
    ) -> None:
        """Wait until a phase is in a state, in a certain attempt where that is given."""

        def holds() -> bool:
            one = self.phase(phase, name)
            return one.get("state") == state and attempt in (0, one.get("attempts"))

        await self.until(holds, f'phase "{phase}" of "{name}" {state} in attempt {attempt}')

    async def until_ended(self, name: str = "slm") -> None:
        """Wait until a curriculum has succeeded or failed."""
        ends = ("Succeeded", "Failed")
        await self.until(lambda: self.status(name).get("state") in ends, f'"{name}" ended')

    async def until_condition(self, kind: str, reason: str, name: str = "slm") -> Raw:
        """Wait until a condition holds for a reason."""

        def holds() -> bool:
            one = self.condition(kind, name)
            return one.get("reason") == reason

        await self.until(holds, f"{kind} for {reason}")
        return self.condition(kind, name)

    async def until_message(self, kind: str, text: str, name: str = "slm") -> None:
        """Wait until a condition says something."""
        await self.until(lambda: text in self.condition(kind, name).get("message", ""), text)

    async def is_calm(self) -> None:
        """Nothing more is written by any operator."""
        await self.passes(self.tempo.calm / 4)
        before = len(self.writes)
        await self.passes(self.tempo.calm)
        assert [str(write) for write in self.writes[before:]] == []

    def story(self) -> str:
        """What happened, for people who read of a play that failed."""
        lines = [str(write) for write in self.writes[-30:]]
        lines += [f"{name}: {one}" for name, one in self._states().items()]
        return "\n".join(lines)

    def _states(self) -> dict[str, Any]:
        return {
            raw["metadata"]["name"]: raw.get("status", {}).get(
                "state", raw.get("status", {}).get("phase", "")
            )
            for kind in (kinds.CURRICULA, kinds.PYTORCHJOBS, kinds.JOBS, kinds.PODS)
            for raw in self.datacentre.view.all(kind)
        } | {"message": [p.get("message") for p in self.status().get("phases", ())]}

    def _report(self, run: PhaseRun, percent: int, measured: Measured | None) -> None:
        for one in self.operators:
            one.report(run, percent, measured)


def finished(job: Raw) -> bool:
    """Whether a PyTorchJob or a Job has ended."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    ends = ("Succeeded", "Failed", "Complete")
    return any(c["type"] in ends and c["status"] == "True" for c in conditions)


@contextlib.asynccontextmanager
async def staged(admin: Admin, clock: Clock, tempo: Tempo) -> AsyncIterator[Stage]:
    """A cluster with nodes, classes, a pool, claims and all actors, and no operator yet."""
    async with asyncio.TaskGroup() as group:
        stage = Stage(admin, clock, tempo, group)
        for body in (
            *documents.nodes(clock),
            *documents.classes(),
            documents.pool(),
            *documents.claims(),
        ):
            await admin.create(kinds.of(body), body)
        acting = group.create_task(stage.datacentre.run(), name="datacentre")
        await stage.datacentre.view.synced.wait()
        noting = group.create_task(stage.watch_jobs(), name="notes of jobs")
        yield stage
        for one in stage.operators:
            await one.kill()
        acting.cancel()
        noting.cancel()


Play = Callable[[Stage], Awaitable[None]]
