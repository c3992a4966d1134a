"""The least Cluster that the edge can be tried on: objects on a shelf, and what is to go wrong.

It refuses nothing that a real API server would refuse, but for stale versions and taken names.
"""

import asyncio
import copy
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, MutableSequence
from typing import Any

from curriculum_operator.cluster import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Kind,
    NotFound,
    Raw,
    TokenIdentity,
)

from ..memory.store import merged
from ..memory.warp import WarpLoop

Event = tuple[str, Raw]
Script = list[Event | ClusterError]
"""What one watch gives, in order, before it stays silent; an error breaks it off."""


def warped(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on a loop whose time jumps: waiting costs nothing."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=WarpLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class Shelf:
    """Objects by kind, namespace and name. `fail` and `scripts` say what goes wrong."""

    def __init__(self, *objects: tuple[Kind, Raw]) -> None:
        self.objects: dict[tuple[str, str, str], Raw] = {}
        self.version = 100
        self.calls: list[str] = []
        """Writes that were asked for: verb, kind and name."""

        self.reads: list[str] = []
        self.fail: dict[str, deque[ClusterError]] = {}
        """Errors to raise, by call; taken from the left."""

        self.late: dict[str, ClusterError] = {}
        """Errors to raise after the write was done, by call."""

        self.scripts: dict[str, deque[Script]] = {}
        """Watches of a kind, one script each."""

        self.identities: dict[str, TokenIdentity | ClusterError] = {}
        self._uids = 0
        for kind, raw in objects:
            self.put(kind, raw)

    def put(self, kind: Kind, raw: Raw) -> Raw:
        """Lay an object on the shelf, newer than all that lies there."""
        self.version += 1
        raw = copy.deepcopy(raw)
        meta = raw["metadata"]
        meta["resourceVersion"] = str(self.version)
        self._uids += 1
        meta.setdefault("uid", f"uid-{self._uids}")
        meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        self.objects[_key(kind, meta["name"], meta.get("namespace"))] = raw
        return copy.deepcopy(raw)

    def take(self, kind: Kind, name: str, namespace: str | None = None) -> None:
        """Take an object off the shelf."""
        self.version += 1
        del self.objects[_key(kind, name, namespace)]

    def errors(self, call: str, *errors: ClusterError) -> None:
        """Have the next calls of this name fail so."""
        self.fail.setdefault(call, deque()).extend(errors)

    async def list(
        self, kind: Kind, *, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[Raw], str]:
        await self._arrive(f"list {kind.kind}", self.reads)
        found = [copy.deepcopy(raw) for key, raw in self.objects.items() if key[0] == kind.kind]
        return found, str(self.version)

    async def watch(
        self,
        kind: Kind,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[Event]:
        await self._arrive(f"watch {kind.kind} {resource_version}", self.reads)
        scripts = self.scripts.get(kind.kind) or deque()
        for event in scripts.popleft() if scripts else []:
            await asyncio.sleep(0.01)
            if isinstance(event, ClusterError):
                raise event
            yield event
        await asyncio.sleep(1e9)

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Raw:
        await self._arrive(f"get {kind.kind} {name}", self.reads)
        return copy.deepcopy(self._at(kind, name, namespace))

    async def create(self, kind: Kind, body: Raw) -> Raw:
        meta = body["metadata"]
        await self._arrive(f"create {kind.kind} {meta['name']}")
        if _key(kind, meta["name"], meta.get("namespace")) in self.objects:
            raise AlreadyExists(meta["name"])
        return self._done(f"create {kind.kind} {meta['name']}", self.put(kind, body))

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        await self._arrive(f"delete {kind.kind} {name}")
        there = self._at(kind, name, namespace)
        if uid is not None and there["metadata"]["uid"] != uid:
            raise Conflict("uid")
        self.take(kind, name, namespace)

    async def replace_status(self, kind: Kind, body: Raw) -> Raw:
        name = body["metadata"]["name"]
        await self._arrive(f"status {kind.kind} {name}")
        there = self._fresh(kind, body)
        return self._done(
            f"status {kind.kind} {name}", self.put(kind, {**there, "status": body["status"]})
        )

    async def replace(self, kind: Kind, body: Raw) -> Raw:
        await self._arrive(f"replace {kind.kind} {body['metadata']['name']}")
        self._fresh(kind, body)
        return self.put(kind, body)

    async def patch(self, kind: Kind, name: str, change: Raw, *, resource_version: str) -> Raw:
        await self._arrive(f"patch {kind.kind} {name}")
        there = self._at(kind, name, None)
        if there["metadata"]["resourceVersion"] != resource_version:
            raise Conflict(name)
        return self._done(f"patch {kind.kind} {name}", self.put(kind, merged(there, change)))

    async def log(self, namespace: str, pod: str, *, container: str, tail: int) -> str:
        raise AssertionError("the edge reads no logs")

    async def review_token(self, token: str, audience: str) -> TokenIdentity | None:
        await self._arrive(f"review {token}", self.reads)
        identity = self.identities.get(f"{token} {audience}")
        if isinstance(identity, ClusterError):
            raise identity
        return identity

    async def _arrive(self, call: str, log: MutableSequence[str] | None = None) -> None:
        (self.calls if log is None else log).append(call)
        await asyncio.sleep(0.001)
        for known in (call, call.rsplit(" ", 1)[0]):
            if self.fail.get(known):
                raise self.fail[known].popleft()

    def _done(self, call: str, raw: Raw) -> Raw:
        error = self.late.pop(call, None)
        if error is not None:
            raise error
        return raw

    def _at(self, kind: Kind, name: str, namespace: str | None) -> Raw:
        found = self.objects.get(_key(kind, name, namespace))
        if found is None:
            raise NotFound(name)
        return found

    def _fresh(self, kind: Kind, body: Raw) -> Raw:
        meta = body["metadata"]
        there = self._at(kind, meta["name"], meta.get("namespace"))
        if there["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            raise Conflict(meta["name"])
        return there


def _key(kind: Kind, name: str, namespace: str | None) -> tuple[str, str, str]:
    return (kind.kind, namespace or "", name)
