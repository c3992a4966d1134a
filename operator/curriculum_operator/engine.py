"""The engine: what is watched goes in, the pure core decides, what follows is written.

    watches, curricula, heartbeats ──▶ wake ──▶ worklist ──▶ step ──▶ execute ──▶ API server
                                                   ▲                     │
                                                   └── timers, retries ──┘

It does nothing before every store is synced and the Lease is held, and ends when the Lease is
lost. It knows no kopf: curricula are fed to `curriculum_event`, and any Cluster will do.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Never

from curriculum_api.preflight.figures import Measured
from curriculum_api.wire import State
from curriculum_operator import clock, cluster, execute, kinds, label, names, observe, project
from curriculum_operator import lease as leases
from curriculum_operator import step as steps
from curriculum_operator.clock import Clock, SystemClock
from curriculum_operator.cluster import Cluster, Raw
from curriculum_operator.driver import Decide, Driver
from curriculum_operator.proving import Proving
from curriculum_operator.settings import Settings
from curriculum_operator.stores import Stores
from curriculum_operator.worklist import Worklist

logger = logging.getLogger(__name__)

COALESCE_SECONDS = 0.1
"""Changes that concern all who wait are gathered for this long."""

LABEL_ROUNDS = 3
"""How often a node may be found changed, and read again, before it has to wait."""

STUCK_SECONDS = 300.0
LAG_SECONDS = 10.0


class Engine:
    """One operator process at work on one cluster."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        clock: Clock | None = None,
        *,
        scopes: Mapping[str, Cluster] | None = None,
        home: Cluster | None = None,
        timing: leases.Timing = leases.Timing(),
        decide: Decide = steps.step,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.settings = settings
        self.stores = Stores(
            cluster,
            scopes or {"": cluster},
            self,
            home=home or cluster,
            profiles=settings.site_profiles,
        )
        self.lease = leases.Lease(
            cluster,
            self.clock,
            name=settings.lease_name,
            namespace=settings.lease_namespace,
            identity=settings.identity,
            timing=timing,
        )
        self.driver = Driver(
            cluster,
            settings,
            self.clock,
            stores=self.stores,
            lease=self.lease,
            freed=self._wake_waiting,
            decide=decide,
        )
        self.proving = Proving(cluster, self.clock, stores=self.stores, lease=self.lease)
        self._nodes = Worklist(self._tend, workers=settings.node_workers)
        self._cluster = cluster
        self._scopes = scopes or {"": cluster}
        self._gathering: asyncio.TimerHandle | None = None
        self._lag = 0.0

    def curriculum_event(self, event: str | None, raw: Raw) -> None:
        """Take in a curriculum; ADDED, MODIFIED or None is what it is now, DELETED its end."""
        self.driver.take(event, raw)

    def beat(self, curriculum_uid: str, phase: str, attempt: int, beat: observe.Beat) -> None:
        """Take in a trainer's report."""
        self.driver.beat(curriculum_uid, phase, attempt, beat)

    def measured(self, curriculum_uid: str, phase: str, attempt: int, told: Measured) -> None:
        """Take in what an attempt measured of its nodes."""
        for name in self.proving.measured((curriculum_uid, phase, attempt), told):
            self._nodes.wake(name)

    def curriculum_named(self, namespace: str, name: str) -> observe.Curriculum | None:
        """A curriculum by its name."""
        return self.driver.named(namespace, name)

    def pod(self, namespace: str, name: str) -> observe.Pod | None:
        """A pod of ours by its name."""
        return self.stores.pods.by_key.get((namespace, name))

    @property
    def ready(self) -> bool:
        """Whether it decides: synced, and holding the Lease."""
        return self.driver.listening_since is not None and self.lease.held

    def ailment(self) -> str | None:
        """Why this process should be started anew; None where it is well."""
        for reflector in self.stores.reflectors:
            silent = reflector.silent_seconds()
            if silent > self.settings.silence_seconds:
                return f"the watch of {reflector.kind.plural} is silent for {silent:.0f} s"
        busy = max(self.driver.worklist.busy_seconds(), self._nodes.busy_seconds())
        if busy > STUCK_SECONDS:
            return f"a worker is stuck for {busy:.0f} s"
        if self._lag > LAG_SECONDS:
            return f"the event loop lags by {self._lag:.0f} s"
        return None

    async def run(self) -> None:
        """Follow the cluster; once the Lease is held, decide and write. Ends only by an error.

        Raises:
            ExceptionGroup: with lease.Lost in it where the Lease was lost.
        """
        async with asyncio.TaskGroup() as group:
            for reflector in self.stores.reflectors:
                group.create_task(reflector.run(), name=f"watch {reflector.kind.plural}")
            group.create_task(self._measure_lag(), name="event loop lag")
            for reflector in self.stores.reflectors:
                await reflector.synced.wait()
            await self.lease.acquire()
            group.create_task(self.lease.keep(), name="lease")
            await self._list_curricula()
            self.driver.begin()
            logger.info("deciding for %d curricula", len(self.driver.curricula))
            self._wake_nodes()
            group.create_task(self.driver.worklist.run(), name="curricula")
            group.create_task(self._nodes.run(), name="nodes")
            group.create_task(self._resync(), name="resync")

    async def release(self) -> None:
        """After `run` was cancelled: let the next operator start at once."""
        self.driver.listening_since = None
        await self.lease.release()

    async def _resync(self) -> Never:
        while True:
            await asyncio.sleep(self.settings.resync_seconds)
            await self._list_curricula()

    async def _list_curricula(self) -> None:
        """Take in all curricula, and forget those that are gone without a watch telling so."""
        known = dict(self.driver.curricula)
        found: set[str] = set()
        versions: list[int] = []
        for scope in self._scopes.values():
            items, version = await _persistently(scope)
            versions.append(int(version))
            for raw in items:
                found.add(raw["metadata"]["uid"])
                self.driver.take(None, raw)
        for uid, curriculum in known.items():
            if uid not in found and int(curriculum.resource_version) <= min(versions):
                self.driver.forget(uid)

    async def _measure_lag(self) -> Never:
        while True:
            before = clock.monotonic()
            await asyncio.sleep(1.0)
            self._lag = clock.monotonic() - before - 1.0

    # Who is woken by what.

    def job_changed(self, old: observe.Job | None, new: observe.Job | None) -> None:
        seen = new or old
        assert seen is not None
        if new is not None:
            self.driver.seen((new.curriculum_uid, new.phase, new.attempt))
        self.driver.wake(seen.curriculum_uid)
        if new is None or new.finished:
            self._wake_waiting()

    def verification_changed(
        self, old: observe.Verification | None, new: observe.Verification | None
    ) -> None:
        seen = new or old
        assert seen is not None
        self.driver.wake(seen.curriculum_uid)

    def pod_changed(self, old: observe.Pod | None, new: observe.Pod | None) -> None:
        seen = new or old
        assert seen is not None
        self.driver.wake(seen.curriculum_uid)
        if new is None or new.finished:
            self._wake_waiting()
        if new is not None:
            for name in self.proving.ended(new):
                self._wake_node(name)

    def occupant_changed(self, old: observe.Occupant | None, _: observe.Occupant | None) -> None:
        if old is not None:
            self._wake_waiting()

    def node_changed(self, old: observe.Node | None, new: observe.Node | None) -> None:
        seen = new or old
        assert seen is not None
        if self.driver.listening_since is None:
            return
        if new is not None:
            self._nodes.wake(new.name)
        for jobs in self.stores.jobs.by_owner.values():
            for job in jobs:
                if seen.name in job.nodes:
                    self.driver.wake(job.curriculum_uid)
        self._wake_waiting()

    def claim_changed(self) -> None:
        self._wake_waiting()

    def offer_changed(self) -> None:
        self._wake_nodes()
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        """Wake all that wait for something, a moment later and once for many changes."""
        if self.driver.listening_since is None or self._gathering is not None:
            return
        loop = asyncio.get_running_loop()
        self._gathering = loop.call_later(COALESCE_SECONDS, self._wake_gathered)

    def _wake_gathered(self) -> None:
        self._gathering = None
        for uid, curriculum in self.driver.curricula.items():
            if curriculum.status.state in (State.PENDING, State.WAITING):
                self.driver.wake(uid)

    def _wake_node(self, name: str, seconds: float = 0.0) -> None:
        if self.driver.listening_since is not None:
            self._nodes.wake_in(name, seconds)

    def _wake_nodes(self) -> None:
        if self.driver.listening_since is not None:
            for name in self.stores.nodes:
                self._nodes.wake(name)

    async def _tend(self, name: str) -> None:
        """Have a node say its class, and what preflights found of it."""
        await self._label(name)
        await self.proving.tend(name, self._wake_node)

    async def _label(self, name: str) -> None:
        """Have a node say its class."""
        node = self.stores.newest_node(name)
        for _ in range(LABEL_ROUNDS):
            if node is None:
                return
            change = label.change(node, self.stores.classes)
            if change is None:
                return
            try:
                raw = await execute.label_node(
                    self._cluster, node, change, check=self.lease.check, now=self.clock.now()
                )
            except cluster.NotFound:
                return
            except cluster.Conflict:
                # A heartbeat that no watch has told of yet, or an administrator's own word.
                node = await self._node(name)
                continue
            self.stores.learn(kinds.NODES, raw)
            _say(name, change)
            return
        raise cluster.Conflict(f'node "{name}" changes faster than it can be labelled')

    async def _node(self, name: str) -> observe.Node | None:
        try:
            return project.node(await self._cluster.get(kinds.NODES, name))
        except cluster.NotFound:
            return None


def _say(name: str, change: label.Change) -> None:
    if change.conflict:
        logger.warning('node "%s": %s', name, change.conflict)
    elif names.CLASS_LABEL in change.labels:
        said = change.labels[names.CLASS_LABEL] or "(removed)"
        reason = change.annotations.get(names.CLASS_REASON_ANNOTATION) or ""
        logger.info('node "%s": %s=%s %s', name, names.CLASS_LABEL, said, reason)


async def _persistently(scope: Cluster) -> tuple[list[Raw], str]:
    failures = 0
    while True:
        try:
            return await scope.list(kinds.CURRICULA)
        except cluster.ClusterError as error:
            failures += 1
            logger.warning("cannot list curricula: %s", error)
            await asyncio.sleep(clock.backoff(failures, most=30.0))
