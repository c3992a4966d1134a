"""List, replace, watch: a store of one kind's objects, each projected at once to a small value.

After every list the store is replaced, so nothing that vanished while the watch was broken
stays as a ghost. It reads only, and decides nothing.

    list ──▶ replace the store ──▶ watch ──▶ watch again from the last version ...
      ▲                              │
      └────────── 410 Gone ──────────┘
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, Never, TypeVar

from curriculum_operator import clock, cluster
from curriculum_operator.cluster import Cluster, Kind, Raw

logger = logging.getLogger(__name__)

T = TypeVar("T")

Key = tuple[str, str]
"""Namespace (empty for cluster-scoped objects) and name."""

RECONNECT_SECONDS = 0.1
RETRY_SECONDS = 0.5
RETRY_SECONDS_MAX = 30.0
RELIST_FAILURES = 3
"""After so many watches without a word the version itself is doubted: of an etcd that was restored
to an earlier state, a watch from a later version is silent for ever."""


class Reflector(Generic[T]):
    """Keeps `store` like the cluster, and tells of every change that its values show.

    `project` returns None for an object that is not wanted. `on_change` gets the key, the value
    before and the value after; None stands for absent; equal values are not told.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        *,
        project: Callable[[Raw], T | None],
        on_change: Callable[[Key, T | None, T | None], None],
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        self.kind = kind
        self.store: dict[Key, T] = {}
        self.synced = asyncio.Event()
        self.last_contact: float | None = None
        """Loop time of the last sign of life from the server; None before the first list."""

        self._cluster = cluster
        self._project = project
        self._on_change = on_change
        self._selectors = {"label_selector": label_selector, "field_selector": field_selector}
        self._version = 0
        """Resource version up to which the store is known to be complete."""

        self._learned: dict[Key, int] = {}
        """Own writes that no list or watch has confirmed yet, by resource version."""

        self._failures = 0

    def silent_seconds(self) -> float:
        """Seconds since the last sign of life; 0 before the first list."""
        return 0.0 if self.last_contact is None else clock.monotonic() - self.last_contact

    def learn(self, raw: Raw) -> None:
        """Take in an object that a write returned, unless the watch is already past it.

        So the next decision sees what this process wrote, however late the watch is.
        """
        version = _version(raw)
        if version <= self._version:
            return
        key = _key(raw)
        self._learned[key] = version
        self._put(key, self._read(raw))

    async def run(self) -> Never:
        """Follow the cluster for ever, through disconnects and stale versions."""
        while True:
            try:
                await self._replace()
                await self._follow()
            except cluster.Gone:
                logger.info("watch of %s: version %s is gone", self.kind.plural, self._version)
                await asyncio.sleep(RECONNECT_SECONDS)
            except cluster.ClusterError as error:
                await self._pause(error)

    async def _replace(self) -> None:
        items, version = await self._cluster.list(self.kind, **self._selectors)
        # Set, not raised: the versions of a restored etcd begin lower.
        self._version = int(version)
        self._contact(self._version)
        found = {_key(raw): raw for raw in items}
        for key in [key for key in self.store if key not in found and key not in self._learned]:
            self._put(key, None)
        for key, raw in found.items():
            if key not in self._learned:
                self._put(key, self._read(raw))
        self.synced.set()

    async def _follow(self) -> None:
        """Watch, and again from where the last watch ended; ends where a list is needed."""
        while True:
            try:
                stream = self._cluster.watch(
                    self.kind, resource_version=str(self._version), **self._selectors
                )
                async for event, raw in stream:
                    self._apply(event, raw)
                self._contact(self._version)
                await asyncio.sleep(RECONNECT_SECONDS)
            except cluster.Unavailable as error:
                await self._pause(error)
                if self._failures >= RELIST_FAILURES:
                    return

    def _apply(self, event: str, raw: Raw) -> None:
        version = _version(raw)
        self._contact(version)
        if event == "BOOKMARK":
            return
        key = _key(raw)
        if key in self._learned:
            # An event from before our own write: what we hold is newer.
            return
        self._put(key, None if event == "DELETED" else self._read(raw))

    def _contact(self, version: int) -> None:
        self.last_contact = clock.monotonic()
        self._failures = 0
        self._version = max(self._version, version)
        for key in [key for key, written in self._learned.items() if written <= self._version]:
            del self._learned[key]

    def _put(self, key: Key, new: T | None) -> None:
        old = self.store.get(key)
        if new == old:
            if new is not None:
                # What is not compared may be newer: a node's version, after a heartbeat.
                self.store[key] = new
            return
        if new is None:
            del self.store[key]
        else:
            self.store[key] = new
        self._on_change(key, old, new)

    def _read(self, raw: Raw) -> T | None:
        try:
            return self._project(raw)
        except (KeyError, TypeError, ValueError) as error:
            namespace, name = _key(raw)
            logger.error(
                'ignoring %s "%s": it cannot be read: %s',
                self.kind.kind,
                f"{namespace}/{name}" if namespace else name,
                " ".join(str(error).split()),
            )
            return None

    async def _pause(self, error: cluster.ClusterError) -> None:
        self._failures += 1
        wait = clock.backoff(self._failures, first=RETRY_SECONDS, most=RETRY_SECONDS_MAX)
        if isinstance(error, cluster.Unavailable) and error.retry_after:
            wait = max(wait, error.retry_after)
        level = logging.INFO if self._failures == 1 else logging.WARNING
        logger.log(level, "watch of %s: %s; again in %.1f s", self.kind.plural, error, wait)
        await asyncio.sleep(wait)


def _key(raw: Raw) -> Key:
    return raw["metadata"].get("namespace") or "", raw["metadata"]["name"]


def _version(raw: Raw) -> int:
    return int(raw["metadata"]["resourceVersion"])
