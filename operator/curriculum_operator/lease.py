"""The Lease: of several operators only its holder decides and writes.

What it does not do: it does not fence. A holder that is stopped in the middle of a request may
finish that request after another has taken over. What keeps such a write harmless is elsewhere:
every attempt is claimed in the status under the resource version that was decided on, before
anything is created for it. The Lease keeps two operators from working against each other, and
sends heartbeats to the one that decides, because only the holder is Ready.

Times follow client-go: others wait `duration` seconds since they saw the Lease change, by their
own clock; the holder gives up `renew_deadline` seconds after its last renewal, which is earlier.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Never

from curriculum_operator import clock, cluster
from curriculum_operator.clock import Clock
from curriculum_operator.cluster import LEASES, Cluster, Raw

logger = logging.getLogger(__name__)


class Lost(Exception):
    """The Lease is not held any more: stop at once, write nothing."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds."""

    duration: int = 15
    renew_deadline: float = 10
    renew_every: float = 2
    retry_every: float = 2
    request: float = 4
    """One renewal may take this long; then it is asked again, on another connection."""


class Lease:
    """One Lease object, as one contender sees it."""

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        *,
        name: str,
        namespace: str,
        identity: str,
        timing: Timing = Timing(),
    ) -> None:
        self.identity = identity
        self._cluster = cluster
        self._clock = clock
        self._name = name
        self._namespace = namespace
        self._timing = timing
        self._mine: Raw | None = None
        """The Lease as it was last written by us."""

        self._renewed = 0.0
        """Loop time at which the last successful renewal was begun."""

        self._seen_version = ""
        self._seen_at = 0.0
        """Loop time at which another's Lease was first seen in its present version."""

    @property
    def held(self) -> bool:
        """Whether it is held, with time left to finish a write."""
        left = self._renewed + self._timing.renew_deadline - clock.monotonic()
        return self._mine is not None and left > 0

    def check(self) -> None:
        """Raise Lost unless it is held: called right before every write."""
        if not self.held:
            raise Lost(f'the Lease "{self._namespace}/{self._name}" is not held')

    async def acquire(self) -> None:
        """Wait until it is held."""
        waiting_for = ""
        while True:
            began = clock.monotonic()
            try:
                holder = await self._try()
            except cluster.ClusterError as error:
                logger.warning("cannot take the Lease yet: %s", error)
                holder = waiting_for
            if self._mine is not None:
                self._renewed = began
                logger.info('holding the Lease "%s/%s"', self._namespace, self._name)
                return
            if holder != waiting_for:
                logger.info(
                    'waiting for the Lease "%s/%s" of "%s"', self._namespace, self._name, holder
                )
                waiting_for = holder
            await asyncio.sleep(self._timing.retry_every)

    async def keep(self) -> Never:
        """Renew it for ever; raises Lost as soon as it cannot be relied on."""
        while True:
            await asyncio.sleep(self._timing.renew_every)
            await self._renew()

    async def release(self) -> None:
        """Give it up, so that the next one starts at once. Best effort."""
        mine, self._mine = self._mine, None
        if mine is None:
            return
        spec = {**mine["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(2):
                await self._cluster.replace(LEASES, {**mine, "spec": spec})
        except (cluster.ClusterError, TimeoutError) as error:
            logger.info("the Lease was not released: %r", error)

    async def _renew(self) -> None:
        deadline = self._renewed + self._timing.renew_deadline
        while True:
            assert self._mine is not None, "renewed before it was acquired"
            began = clock.monotonic()
            try:
                async with asyncio.timeout_at(min(deadline, began + self._timing.request)):
                    spec = {**self._mine["spec"], "renewTime": _micro_time(self._clock.now())}
                    self._mine = await self._cluster.replace(LEASES, {**self._mine, "spec": spec})
            except (cluster.NotFound, cluster.Conflict) as error:
                if await self._still_mine(deadline):
                    continue
                self._mine = None
                raise Lost(f"the Lease was taken away: {error}") from error
            except (cluster.ClusterError, TimeoutError) as error:
                logger.warning("cannot renew the Lease: %r", error)
                if clock.monotonic() + self._timing.retry_every >= deadline:
                    self._mine = None
                    raise Lost(f"the Lease could not be renewed in time: {error!r}") from error
                await asyncio.sleep(self._timing.retry_every)
                continue
            self._renewed = began
            return

    async def _still_mine(self, deadline: float) -> bool:
        """After a 409: a renewal whose answer was lost, or somebody's label, is no loss."""
        try:
            async with asyncio.timeout_at(deadline):
                raw = await self._cluster.get(LEASES, self._name, self._namespace)
        except (cluster.ClusterError, TimeoutError):
            return False
        if raw["spec"].get("holderIdentity") != self.identity:
            return False
        self._mine = raw
        return True

    async def _try(self) -> str:
        """Take it where it is free. Returns whose it is otherwise."""
        now = _micro_time(self._clock.now())
        spec: Raw = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self._timing.duration,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": 0,
        }
        try:
            raw = await self._cluster.get(LEASES, self._name, self._namespace)
        except cluster.NotFound:
            body: Raw = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": spec,
            }
            try:
                self._mine = await self._cluster.create(LEASES, body)
            except cluster.AlreadyExists:
                return "another"
            return self.identity
        theirs = raw.get("spec") or {}
        holder: str = theirs.get("holderIdentity") or ""
        if holder and not self._expired(raw, theirs.get("leaseDurationSeconds") or 0):
            return holder
        spec["leaseTransitions"] = (theirs.get("leaseTransitions") or 0) + 1
        try:
            self._mine = await self._cluster.replace(LEASES, {**raw, "spec": spec})
        except (cluster.Conflict, cluster.NotFound):
            return holder or "another"
        return self.identity

    def _expired(self, raw: Raw, duration: int) -> bool:
        """By our own clock only: the holder's may be wrong."""
        version = raw["metadata"]["resourceVersion"]
        if version != self._seen_version:
            self._seen_version, self._seen_at = version, clock.monotonic()
            return False
        return clock.monotonic() - self._seen_at > duration


def _micro_time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
