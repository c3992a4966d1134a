"""What the actors of a cluster see: every object of the kinds they act on, kept by watching.

It is the actors' own, so that a fault of the operator's reflectors cannot hide behind itself.
"""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from curriculum_operator import cluster
from curriculum_operator.cluster import Cluster, Kind, Raw


class Admin(Cluster, Protocol):
    """A cluster and what a scheduler may do to it beside."""

    async def bind(self, namespace: str, name: str, node: str) -> None:
        """Put a pod onto a node. Raises Conflict where it is on one, or goes away."""

    async def printed(self, namespace: str, name: str, text: str) -> None:
        """Keep what a pod's container has printed, where there is a kubelet to ask for it."""


class View:
    """All objects of some kinds, as the watches tell; `changed` rings at every change."""

    def __init__(self, cluster: Cluster, kinds: Iterable[Kind]) -> None:
        self.objects: dict[Kind, dict[tuple[str, str], Raw]] = {kind: {} for kind in kinds}
        self.changed = asyncio.Condition()
        self.turns = 0
        """Changes so far."""

        self.synced = asyncio.Event()
        self._cluster = cluster
        self._listed: set[Kind] = set()

    def all(self, kind: Kind) -> list[Raw]:
        """All objects of a kind, by name."""
        return [raw for _, raw in sorted(self.objects[kind].items())]

    def find(self, kind: Kind, name: str, namespace: str = "") -> Raw | None:
        """One object."""
        return self.objects[kind].get((namespace, name))

    async def turn_after(self, seen: int) -> None:
        """Wait until more has changed than `seen` turns."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.turns != seen)

    async def run(self) -> None:
        """Follow all kinds until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in self.objects:
                group.create_task(self._follow(kind))

    async def _follow(self, kind: Kind) -> None:
        while True:
            try:
                items, version = await self._cluster.list(kind)
                self.objects[kind] = {_key(raw): raw for raw in items}
                self._listed.add(kind)
                if len(self._listed) == len(self.objects):
                    self.synced.set()
                await self._ring()
                while True:
                    async for event, raw in self._cluster.watch(kind, resource_version=version):
                        version = raw["metadata"]["resourceVersion"]
                        await self._apply(kind, event, raw)
            except (cluster.Gone, cluster.Unavailable):
                await asyncio.sleep(0.05)

    async def _apply(self, kind: Kind, event: str, raw: Raw) -> None:
        if event == "BOOKMARK":
            return
        if event == "DELETED":
            self.objects[kind].pop(_key(raw), None)
        else:
            self.objects[kind][_key(raw)] = raw
        await self._ring()

    async def _ring(self) -> None:
        self.turns += 1
        async with self.changed:
            self.changed.notify_all()


def owned_by(raw: Raw, uid: str) -> bool:
    """Whether an object names this owner."""
    return any(owner["uid"] == uid for owner in raw["metadata"].get("ownerReferences") or ())


def _key(raw: Raw) -> tuple[str, str]:
    return raw["metadata"].get("namespace") or "", raw["metadata"]["name"]
