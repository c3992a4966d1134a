"""A reflector's store is what the cluster holds, through stale versions, breaks and own writes."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from curriculum_operator.cluster import (
    PODS,
    ClusterError,
    Gone,
    NotFound,
    Raw,
    Refused,
    Unavailable,
)
from curriculum_operator.watch import Reflector

from .shelf import Script, Shelf, warped

Change = tuple[str, str | None, str | None]


def pod(name: str, color: str, version: int = 0) -> Raw:
    meta = {"name": name, "namespace": "ns", "labels": {"color": color}, "uid": name}
    return {"metadata": {**meta, "resourceVersion": str(version)}}


def color(raw: Raw) -> str | None:
    found: str = raw["metadata"]["labels"]["color"]
    return None if found == "none" else found


class Watched:
    """A reflector of pods' colors, and the changes that it told."""

    def __init__(self, shelf: Shelf) -> None:
        self.changes: list[Change] = []
        self.reflector: Reflector[str] = Reflector(
            shelf,
            PODS,
            project=color,
            on_change=lambda key, old, new: self.changes.append((key[1], old, new)),
        )

    @property
    def colors(self) -> dict[str, str]:
        return {name: value for (_, name), value in self.reflector.store.items()}


@asynccontextmanager
async def watching(shelf: Shelf, *scripts: Script) -> AsyncIterator[Watched]:
    for script in scripts:
        shelf.scripts.setdefault("Pod", deque()).append(script)
    watched = Watched(shelf)
    task = asyncio.create_task(watched.reflector.run())
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.wait({task})


def shelf_of(*pods: Raw) -> Shelf:
    return Shelf(*((PODS, raw) for raw in pods))


@warped
async def test_the_store_is_the_list_and_what_was_watched_since() -> None:
    events: Script = [
        ("ADDED", pod("c", "blue", 200)),
        ("MODIFIED", pod("a", "green", 201)),
        ("DELETED", pod("b", "red", 202)),
    ]
    async with watching(shelf_of(pod("a", "red"), pod("b", "red")), events) as watched:
        await asyncio.sleep(5)
        assert watched.colors == {"a": "green", "c": "blue"}
        assert watched.changes == [
            ("a", None, "red"),
            ("b", None, "red"),
            ("c", None, "blue"),
            ("a", "red", "green"),
            ("b", "red", None),
        ]


@warped
async def test_what_vanished_while_the_version_was_gone_is_no_ghost() -> None:
    shelf = shelf_of(pod("a", "red"), pod("b", "red"))
    async with watching(shelf, [Gone("too old")]) as watched:
        await watched.reflector.synced.wait()
        shelf.take(PODS, "b", "ns")
        shelf.put(PODS, pod("c", "blue"))
        await asyncio.sleep(5)
        assert watched.colors == {"a": "red", "c": "blue"}
        assert ("b", "red", None) in watched.changes
        assert shelf.reads.count("list Pod") == 2


@pytest.mark.parametrize("error", [Unavailable("reset"), Unavailable("503", retry_after=3)])
def test_a_broken_watch_goes_on_where_it_broke_without_a_list(error: Unavailable) -> None:
    @warped
    async def scenario() -> None:
        shelf = shelf_of(pod("a", "red"))
        first: Script = [("MODIFIED", pod("a", "green", 200)), error]
        async with watching(shelf, first, [("MODIFIED", pod("a", "blue", 201))]) as watched:
            await asyncio.sleep(10)
            assert watched.colors == {"a": "blue"}
            assert shelf.reads == ["list Pod", "watch Pod 101", "watch Pod 200"]

    scenario()


@warped
async def test_watches_that_say_nothing_again_and_again_lead_to_a_new_list() -> None:
    shelf = shelf_of(pod("a", "red"), pod("b", "red"))
    silent: list[Script] = [[Unavailable("silent")] for _ in range(3)]
    async with watching(shelf, *silent) as watched:
        await watched.reflector.synced.wait()
        shelf.take(PODS, "b", "ns")
        shelf.version = 7
        await asyncio.sleep(60)
        assert watched.colors == {"a": "red"}
        assert shelf.reads[-2:] == ["list Pod", "watch Pod 7"]


@warped
async def test_a_bookmark_moves_the_version_and_changes_nothing() -> None:
    shelf = shelf_of(pod("a", "red"))
    bookmark: Any = ("BOOKMARK", {"metadata": {"resourceVersion": "300"}})
    async with watching(shelf, [bookmark, Unavailable("reset")]) as watched:
        await asyncio.sleep(10)
        assert shelf.reads[-1] == "watch Pod 300"
        assert watched.changes == [("a", None, "red")]


@warped
async def test_an_event_that_the_projection_does_not_show_is_not_told() -> None:
    events: Script = [("MODIFIED", pod("a", "red", 200)), ("MODIFIED", pod("a", "none", 201))]
    async with watching(shelf_of(pod("a", "red")), events) as watched:
        await asyncio.sleep(5)
        assert watched.changes == [("a", None, "red"), ("a", "red", None)]


@warped
async def test_an_own_write_is_seen_at_once_and_older_events_do_not_undo_it() -> None:
    older: Script = [
        ("ADDED", pod("a", "old", 150)),
        ("MODIFIED", pod("a", "ours", 160)),
        ("MODIFIED", pod("a", "newer", 170)),
    ]
    async with watching(shelf_of(), older) as watched:
        await watched.reflector.synced.wait()
        watched.reflector.learn(pod("a", "ours", 160))
        assert watched.colors == {"a": "ours"}
        await asyncio.sleep(5)
        assert watched.changes == [("a", None, "ours"), ("a", "ours", "newer")]


@warped
async def test_an_own_write_that_the_watch_is_past_is_not_brought_back() -> None:
    past: Script = [("ADDED", pod("a", "ours", 150)), ("DELETED", pod("a", "ours", 151))]
    async with watching(shelf_of(), past) as watched:
        await asyncio.sleep(5)
        watched.reflector.learn(pod("a", "ours", 150))
        assert watched.colors == {}


@warped
async def test_an_own_write_outlives_a_list_that_is_older_but_not_one_that_is_newer() -> None:
    shelf = shelf_of()
    async with watching(shelf, [Gone("too old")], [Gone("too old")]) as watched:
        await watched.reflector.synced.wait()
        watched.reflector.learn(pod("a", "ours", shelf.version + 50))
        await asyncio.sleep(0.2)
        assert shelf.reads.count("list Pod") == 2
        assert watched.colors == {"a": "ours"}
        shelf.version += 100
        await asyncio.sleep(5)
        assert watched.colors == {}


@warped
async def test_an_object_that_cannot_be_read_is_left_out_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken: Raw = {"metadata": {"name": "b", "namespace": "ns", "uid": "b"}}
    async with watching(shelf_of(pod("a", "red"), broken)) as watched:
        await watched.reflector.synced.wait()
        assert watched.colors == {"a": "red"}
        assert 'ignoring Pod "ns/b": it cannot be read' in caplog.text


@pytest.mark.parametrize(
    "error", [Unavailable("down"), Refused(403, "forbidden"), NotFound("no such kind")]
)
def test_it_is_not_synced_before_a_list_succeeded(
    error: ClusterError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    @warped
    async def scenario() -> None:
        shelf = shelf_of(pod("a", "red"))
        shelf.errors("list", *[error] * 3)
        async with watching(shelf) as watched:
            await asyncio.sleep(0.1)
            assert not watched.reflector.synced.is_set()
            await watched.reflector.synced.wait()
            assert watched.colors == {"a": "red"}

    scenario()
    assert f"watch of {PODS.plural}: {error}" in caplog.text


@warped
async def test_silence_is_measured_from_the_last_sign_of_life() -> None:
    async with watching(shelf_of()) as watched:
        assert watched.reflector.silent_seconds() == 0
        await asyncio.sleep(120)
        assert watched.reflector.silent_seconds() == pytest.approx(120, abs=1)
