"""Objects, their versions and their history: what etcd and the API server's storage do together.

It keeps every version as JSON text, so that nothing that was handed out or handed in can change
what is stored, and nothing that is not JSON gets in.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass

from curriculum_operator.cluster import Conflict, Gone, Kind, NotFound, Raw

from .selecting import Matches

ObjectKey = tuple[str, str]
"""Namespace (empty for cluster-scoped objects) and name."""


@dataclass(frozen=True, slots=True)
class Change:
    """One committed write."""

    version: int
    type: str
    """ADDED, MODIFIED or DELETED."""

    key: ObjectKey
    old: str | None
    new: str
    """As JSON; of a deletion the last state, with the version of the deletion."""

    @property
    def after(self) -> str | None:
        """What is there after it."""
        return None if self.type == "DELETED" else self.new


class Store:
    """Versioned objects of all kinds under one counter."""

    def __init__(self) -> None:
        self.version = 1
        self._objects: dict[Kind, dict[ObjectKey, str]] = {}
        self._history: dict[Kind, list[Change]] = {}
        self._compacted: dict[Kind, int] = {}
        self._changed: dict[Kind, asyncio.Event] = {}

    def find(self, kind: Kind, key: ObjectKey) -> Raw | None:
        """A copy of what is stored."""
        text = self._objects.get(kind, {}).get(key)
        return None if text is None else read(text)

    def get(self, kind: Kind, key: ObjectKey) -> Raw:
        """A copy of what is stored. Raises NotFound."""
        found = self.find(kind, key)
        if found is None:
            raise NotFound(f'{kind.plural} "{key[1]}" not found')
        return found

    def all(self, kind: Kind, *, at: int | None = None) -> list[Raw]:
        """Copies of all objects, by key; as they were at version `at` where that is given."""
        objects = dict(self._objects.get(kind, {}))
        if at is not None:
            for change in reversed(self._history.get(kind, [])):
                if change.version <= at:
                    break
                if change.old is None:
                    del objects[change.key]
                else:
                    objects[change.key] = change.old
        return [read(objects[key]) for key in sorted(objects)]

    def put(self, kind: Kind, key: ObjectKey, raw: Raw) -> Raw:
        """Store a new version and return a copy of it; what is equal to the old is not written."""
        old = self._objects.get(kind, {}).get(key)
        if old is not None and _same(read(old), raw):
            return read(old)
        self.version += 1
        raw["metadata"]["resourceVersion"] = str(self.version)
        new = write(raw)
        self._objects.setdefault(kind, {})[key] = new
        self._commit(kind, Change(self.version, "MODIFIED" if old else "ADDED", key, old, new))
        return read(new)

    def remove(self, kind: Kind, key: ObjectKey) -> None:
        """Remove it at once."""
        old = self._objects[kind].pop(key)
        self.version += 1
        last = read(old)
        last["metadata"]["resourceVersion"] = str(self.version)
        self._commit(kind, Change(self.version, "DELETED", key, old, write(last)))

    def compact(self) -> None:
        """Forget the history: watches from before now are Gone."""
        for kind in self._objects:
            self._history[kind] = []
            self._compacted[kind] = self.version

    def since(self, kind: Kind, version: int) -> list[Change]:
        """Changes after `version`. Raises Gone where they are forgotten."""
        if version < self._compacted.get(kind, 0):
            raise Gone(f"too old resource version: {version} ({self._compacted[kind]})")
        newer: list[Change] = []
        for change in reversed(self._history.get(kind, [])):
            if change.version <= version:
                break
            newer.append(change)
        return newer[::-1]

    def changed(self, kind: Kind) -> asyncio.Event:
        """Set at the next change of the kind."""
        return self._changed.setdefault(kind, asyncio.Event())

    def wake(self, kind: Kind) -> None:
        """Wake everybody who waits for a change."""
        event = self._changed.pop(kind, None)
        if event is not None:
            event.set()

    def wake_all(self) -> None:
        """Wake the watchers of every kind."""
        for kind in list(self._changed):
            self.wake(kind)

    def _commit(self, kind: Kind, change: Change) -> None:
        self._history.setdefault(kind, []).append(change)
        self.wake(kind)


def events(change: Change, matches: Matches) -> Iterator[tuple[str, Raw]]:
    """What a watch with a selector tells of a change."""
    before = change.old is not None and matches(read(change.old))
    after = change.after is not None and matches(read(change.after))
    if after:
        yield ("MODIFIED" if before else "ADDED"), read(change.new)
    elif before:
        # Gone, or no longer selected: its last selected state, under the new version.
        assert change.old is not None
        last = read(change.old)
        last["metadata"]["resourceVersion"] = str(change.version)
        yield "DELETED", last


def merged(there: Raw, change: Raw) -> Raw:
    """A merge patch (RFC 7396) applied: None removes, what is not named stays."""
    new = dict(there)
    for key, value in change.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict):
            old = new.get(key)
            new[key] = merged(old if isinstance(old, dict) else {}, value)
        else:
            new[key] = value
    return new


def read(text: str) -> Raw:
    """A fresh copy."""
    raw: Raw = json.loads(text)
    return raw


def write(raw: Raw) -> str:
    """As JSON; TypeError or ValueError where it is not JSON."""
    return json.dumps(raw, allow_nan=False)


def preconditions(there: Raw, *, version: str | None, uid: str | None) -> None:
    """Raise Conflict where another object, or another version of it, was meant."""
    meta = there["metadata"]
    if uid is not None and uid != meta["uid"]:
        raise Conflict(f'uid "{uid}" was meant, "{meta["uid"]}" is there')
    if version is not None and version != meta["resourceVersion"]:
        raise Conflict("the object has been modified; please apply your changes to the latest")


def _same(one: Raw, other: Raw) -> bool:
    version = one["metadata"]["resourceVersion"]
    return one == {**other, "metadata": {**other["metadata"], "resourceVersion": version}}
