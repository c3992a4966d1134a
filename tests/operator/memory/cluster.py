"""An API server in memory: the Cluster Protocol, with everything a real one would refuse.

Only the API server: jobs make no pods and pods do not run until the actors beside it do that.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from curriculum_operator import kinds
from curriculum_operator.clock import Clock
from curriculum_operator.cluster import (
    AlreadyExists,
    Conflict,
    Kind,
    NotFound,
    Raw,
    Refused,
    TokenIdentity,
    Unavailable,
)

from . import refusals, selecting, store
from .store import ObjectKey

Listed = tuple[list[Raw], str]
"""Objects, and the resource version to watch from."""

BOOKMARK_SECONDS = 60.0
WATCH_SECONDS = 400.0
"""A watch is ended by the server now and then."""


class MemoryCluster:
    """All objects of one cluster; `served` are the kinds it knows."""

    def __init__(
        self,
        clock: Clock,
        *,
        namespaces: tuple[str, ...] = ("default", "research"),
        served: tuple[Kind, ...] = kinds.ALL,
    ) -> None:
        self.store = store.Store()
        self.tokens: dict[tuple[str, str], TokenIdentity] = {}
        """Valid tokens by token and audience."""

        self._clock = clock
        self._namespaces = namespaces
        self._served = served
        self._uids = itertools.count(1)
        self._drops = 0
        self._logs: dict[str, list[str]] = {}
        """Lines by pod UID, of pods whose container was started."""

    async def list(
        self, kind: Kind, *, label_selector: str = "", field_selector: str = ""
    ) -> Listed:
        self._known(kind)
        matches = selecting.matcher(kind.kind, label_selector, field_selector)
        found = [raw for raw in self.store.all(kind) if matches(raw)]
        return found, str(self.store.version)

    async def list_stale(
        self, kind: Kind, *, behind: int, label_selector: str = "", field_selector: str = ""
    ) -> Listed:
        """A list as a lagging replica gives it: as of `behind` versions ago."""
        self._known(kind)
        at = max(1, self.store.version - behind)
        matches = selecting.matcher(kind.kind, label_selector, field_selector)
        return [raw for raw in self.store.all(kind, at=at) if matches(raw)], str(at)

    async def watch(
        self,
        kind: Kind,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[tuple[str, Raw]]:
        self._known(kind)
        matches = selecting.matcher(kind.kind, label_selector, field_selector)
        version, drops = int(resource_version), self._drops
        loop = asyncio.get_running_loop()
        end = loop.time() + WATCH_SECONDS
        while loop.time() < end:
            # Taken before the look: what happens while an event is handed out is not missed.
            changed = self.store.changed(kind)
            for change in self.store.since(kind, version):
                version = change.version
                for event in store.events(change, matches):
                    yield event
            try:
                async with asyncio.timeout(BOOKMARK_SECONDS):
                    await changed.wait()
            except TimeoutError:
                if self.store.since(kind, version):
                    continue  # It came at this very moment; no bookmark may hide it.
                version = self.store.version
                yield "BOOKMARK", {"metadata": {"resourceVersion": str(version)}}
            if drops != self._drops:
                raise Unavailable(f"watch of {kind.plural} broke")

    def drop_watches(self) -> None:
        """Break every connection that is open."""
        self._drops += 1
        self.store.wake_all()

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Raw:
        return self.store.get(kind, self._key(kind, name, namespace))

    async def create(self, kind: Kind, body: Raw) -> Raw:
        raw: Raw = store.read(store.write(body))
        meta = raw["metadata"]
        key = self._key(kind, meta.get("name"), meta.get("namespace"))
        if (raw.get("apiVersion"), raw.get("kind")) != (kind.api_version, kind.kind):
            raise Refused(400, f"the object is a {raw.get('kind')}, the path is of {kind.plural}")
        if meta.get("resourceVersion"):
            raise Refused(400, "resourceVersion should not be set on objects to be created")
        if kind.kind in refusals.WITH_STATUS and kind is not kinds.NODES:
            raw.pop("status", None)
        raw = refusals.stored(kind, raw)
        if kind is kinds.PODS:
            raw["status"] = {"phase": "Pending"}
        refusals.check(kind, raw)
        if self.store.find(kind, key) is not None:
            raise AlreadyExists(f'{kind.plural} "{key[1]}" already exists')
        for read_only in ("uid", "creationTimestamp", "deletionTimestamp", "generation"):
            raw["metadata"].pop(read_only, None)
        raw["metadata"] |= {
            "uid": f"00000000-0000-4000-8000-{next(self._uids):012d}",
            "creationTimestamp": _stamp(self._clock.now()),
        }
        if kind.kind in refusals.WITH_GENERATION:
            raw["metadata"]["generation"] = 1
        return self.store.put(kind, key, raw)

    async def replace(self, kind: Kind, body: Raw) -> Raw:
        there, new = self._update(kind, body)
        for fixed in ("uid", "creationTimestamp", "generation", "deletionTimestamp"):
            new["metadata"].pop(fixed, None)
            if fixed in there["metadata"]:
                new["metadata"][fixed] = there["metadata"][fixed]
        if kind.kind in refusals.WITH_STATUS:
            new.pop("status", None)
            if "status" in there:
                new["status"] = there["status"]
        new = refusals.stored(kind, new)
        refusals.check(kind, new, there)
        if kind.kind in refusals.WITH_GENERATION and _wish(new) != _wish(there):
            new["metadata"]["generation"] += 1
        key = self._key(kind, new["metadata"]["name"], new["metadata"].get("namespace"))
        put = self.store.put(kind, key, new)
        if "deletionTimestamp" in put["metadata"] and not put["metadata"].get("finalizers"):
            self.store.remove(kind, key)
        return put

    async def replace_status(self, kind: Kind, body: Raw) -> Raw:
        if kind.kind not in refusals.WITH_STATUS:
            raise NotFound(f"{kind.plural} have no status subresource")
        there, given = self._update(kind, body)
        mine = store.read(store.write(there))
        new = refusals.stored(kind, {**mine, "status": given.get("status") or {}})
        refusals.check(kind, new, there)
        key = self._key(kind, there["metadata"]["name"], there["metadata"].get("namespace"))
        return self.store.put(kind, key, new)

    async def patch(self, kind: Kind, name: str, change: Raw, *, resource_version: str) -> Raw:
        key = self._key(kind, name, None)
        there = self.store.get(kind, key)
        store.preconditions(there, version=resource_version, uid=None)
        new: Raw = store.merged(there, change)
        refusals.check(kind, new, there)
        return self.store.put(kind, key, new)

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        key = self._key(kind, name, namespace)
        there = self.store.get(kind, key)
        store.preconditions(there, version=None, uid=uid)
        meta = there["metadata"]
        grace = _grace(kind, there, grace_seconds)
        if not grace and not meta.get("finalizers"):
            self.store.remove(kind, key)
            return
        if "deletionTimestamp" in meta and grace >= meta.get("deletionGracePeriodSeconds", 0):
            return
        meta["deletionGracePeriodSeconds"] = grace
        meta["deletionTimestamp"] = _stamp(self._clock.now() + timedelta(seconds=grace))
        if "generation" in meta:
            meta["generation"] += 1
        self.store.put(kind, key, there)

    async def bind(self, namespace: str, name: str, node: str) -> None:
        """Put a pod onto a node, as a scheduler does."""
        key = (namespace, name)
        pod = self.store.get(kinds.PODS, key)
        if pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
            raise Conflict(f'pod "{name}" is already assigned, or goes away')
        pod["spec"]["nodeName"] = node
        self.store.put(kinds.PODS, key, pod)

    async def log(self, namespace: str, pod: str, *, container: str, tail: int) -> str:
        raw = self.store.get(kinds.PODS, self._key(kinds.PODS, pod, namespace))
        if container not in [one["name"] for one in raw["spec"]["containers"]]:
            raise Refused(400, f"container {container} is not valid for pod {pod}")
        lines = self._logs.get(raw["metadata"]["uid"])
        if not raw["spec"].get("nodeName"):
            return ""
        if lines is None:
            raise Refused(400, f'container "{container}" in pod "{pod}" is waiting to start')
        return "".join(f"{line}\n" for line in lines[-tail:])

    async def printed(self, namespace: str, name: str, text: str) -> None:
        """A pod's container has printed something, as its node's kubelet keeps it."""
        uid = self.store.get(kinds.PODS, (namespace, name))["metadata"]["uid"]
        self._logs.setdefault(uid, []).extend(text.splitlines())

    async def review_token(self, token: str, audience: str) -> TokenIdentity | None:
        return self.tokens.get((token, audience))

    def _update(self, kind: Kind, body: Raw) -> tuple[Raw, Raw]:
        """What is there, and a copy of what is to be there instead."""
        new: Raw = store.read(store.write(body))
        meta = new["metadata"]
        there = self.store.get(kind, self._key(kind, meta.get("name"), meta.get("namespace")))
        if (new.get("apiVersion"), new.get("kind")) != (kind.api_version, kind.kind):
            raise Refused(400, f"the object is a {new.get('kind')}, the path is of {kind.plural}")
        if not meta.get("resourceVersion") and refusals.definition(kind) is not None:
            raise Refused(422, "metadata.resourceVersion: must be specified for an update")
        store.preconditions(there, version=meta.get("resourceVersion"), uid=meta.get("uid"))
        return there, new

    def _known(self, kind: Kind) -> None:
        if kind not in self._served:
            raise NotFound("the server could not find the requested resource")

    def _key(self, kind: Kind, name: str | None, namespace: str | None) -> ObjectKey:
        self._known(kind)
        if not name:
            raise Refused(422, f"{kind.kind}: metadata.name: required")
        if not kind.namespaced:
            return ("", name)
        if not namespace:
            raise Refused(400, f'{kind.kind} "{name}": an empty namespace may not be set')
        if namespace not in self._namespaces:
            raise NotFound(f'namespaces "{namespace}" not found')
        return (namespace, name)


def _grace(kind: Kind, raw: Raw, asked: int | None) -> int:
    """Seconds until a pod is really gone: none for one that runs nowhere, or has ended."""
    if kind is not kinds.PODS or not raw["spec"].get("nodeName"):
        return 0
    if raw.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    default: int = raw["spec"].get("terminationGracePeriodSeconds", 30)
    return default if asked is None else asked


def _wish(raw: Raw) -> Raw:
    return {key: value for key, value in raw.items() if key not in ("metadata", "status")}


def _stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
