"""One operator process's connection to the API server: what it wrote, and what goes wrong with it.

A process that has died never hears an answer again; what it sends is lost. A crash is placed at a
certain write, before it took effect or after it did and before the answer came.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from curriculum_operator import kinds
from curriculum_operator.cluster import Cluster, ClusterError, Kind, Raw, TokenIdentity, Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Write:
    """One write that an operator asked for."""

    verb: str
    """create, delete, status, replace or patch."""

    kind: Kind
    name: str
    body: Raw
    """What was sent; empty for a deletion."""

    answered: bool
    """False where it was refused, or its answer was lost."""

    def __str__(self) -> str:
        return f"{self.verb} {self.kind.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Crash:
    """The process dies at its `at`-th write, counted from 1; renewals of the Lease do not count."""

    at: int
    effective: bool
    """Whether that write still takes effect."""


@dataclass(slots=True)
class Faults:
    """What goes wrong."""

    crash: Crash | None = None
    lag: Mapping[Kind, float] = field(default_factory=dict)
    """Seconds that events of a kind come late, at most; 0 and everything between happens too."""

    latency: float = 0.0
    """Seconds from here to the server, and as many back."""

    errors: list[tuple[str, Kind, ClusterError, bool]] = field(default_factory=list)
    """Verb, kind, what is raised, and whether the write takes effect; each happens once."""

    before: Callable[[str, Kind, str], Awaitable[None]] | None = None
    """Called with verb, kind and name before a write is sent."""


class Link:
    """A Cluster, seen through one process's connection."""

    def __init__(self, cluster: Cluster, faults: Faults | None = None, *, seed: int = 0) -> None:
        self.writes: list[Write] = []
        self.dead = asyncio.Event()
        self._cluster = cluster
        self._faults = faults or Faults()
        self._random = random.Random(seed)

    async def list(
        self, kind: Kind, *, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[Raw], str]:
        await self._alive()
        return await self._cluster.list(
            kind, label_selector=label_selector, field_selector=field_selector
        )

    async def watch(
        self,
        kind: Kind,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[tuple[str, Raw]]:
        await self._alive()
        stream = self._cluster.watch(
            kind,
            resource_version=resource_version,
            label_selector=label_selector,
            field_selector=field_selector,
        )
        lag = self._faults.lag.get(kind, 0.0)
        async for event, raw in stream:
            if lag:
                await asyncio.sleep(self._random.uniform(0.0, lag))
            await self._alive()
            yield event, raw

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Raw:
        await self._alive()
        return await self._cluster.get(kind, name, namespace)

    async def create(self, kind: Kind, body: Raw) -> Raw:
        name = body["metadata"].get("name", "")
        return await self._write(
            "create", kind, name, body, lambda: self._cluster.create(kind, body)
        )

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        await self._write(
            "delete",
            kind,
            name,
            {},
            lambda: self._cluster.delete(
                kind, name, namespace, uid=uid, grace_seconds=grace_seconds
            ),
        )

    async def replace_status(self, kind: Kind, body: Raw) -> Raw:
        name = body["metadata"]["name"]
        return await self._write(
            "status", kind, name, body, lambda: self._cluster.replace_status(kind, body)
        )

    async def replace(self, kind: Kind, body: Raw) -> Raw:
        name = body["metadata"]["name"]
        return await self._write(
            "replace", kind, name, body, lambda: self._cluster.replace(kind, body)
        )

    async def patch(self, kind: Kind, name: str, change: Raw, *, resource_version: str) -> Raw:
        return await self._write(
            "patch",
            kind,
            name,
            change,
            lambda: self._cluster.patch(kind, name, change, resource_version=resource_version),
        )

    async def log(self, namespace: str, pod: str, *, container: str, tail: int) -> str:
        await self._alive()
        return await self._cluster.log(namespace, pod, container=container, tail=tail)

    async def review_token(self, token: str, audience: str) -> TokenIdentity | None:
        await self._alive()
        return await self._cluster.review_token(token, audience)

    async def _write(
        self, verb: str, kind: Kind, name: str, body: Raw, send: Callable[[], Awaitable[T]]
    ) -> T:
        await self._alive()
        if kind is kinds.LEASES:
            return await send()
        if self._faults.before is not None:
            await self._faults.before(verb, kind, name)
        number = len(self.writes)
        self.writes.append(Write(verb, kind, name, body, answered=False))
        crash = self._faults.crash
        if crash is not None and crash.at == number + 1:
            await self._die(send if crash.effective else None)
        error = self._error(verb, kind)
        if error is not None:
            raised, effective = error
            if effective:
                await send()
            raise raised
        answer = await send()
        if self._faults.latency:
            await asyncio.sleep(self._faults.latency)
        self.writes[number] = Write(verb, kind, name, body, answered=True)
        return answer

    async def _die(self, send: Callable[[], Awaitable[object]] | None) -> None:
        self.dead.set()
        if send is not None:
            with contextlib.suppress(ClusterError):
                await send()
        await asyncio.Event().wait()

    async def _alive(self) -> None:
        if self._faults.latency:
            await asyncio.sleep(self._faults.latency)
        if self.dead.is_set():
            raise Unavailable("this process has died")

    def _error(self, verb: str, kind: Kind) -> tuple[ClusterError, bool] | None:
        for index, (of_verb, of_kind, raised, effective) in enumerate(self._faults.errors):
            if (of_verb, of_kind) == (verb, kind):
                del self._faults.errors[index]
                return raised, effective
        return None
