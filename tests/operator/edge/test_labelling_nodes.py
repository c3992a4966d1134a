"""Nodes are labelled once, many at a time but not all, through refusals, and by the newest word."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from curriculum_api.classes import CLASSES as SHIPPED
from curriculum_operator import names
from curriculum_operator.cluster import CLASSES, NODES, Conflict, Raw, Unavailable
from curriculum_operator.engine import Engine
from curriculum_operator.settings import Settings

from ..memory.warp import WarpClock
from .shelf import Script, Shelf, warped

SPARK = {names.GPU_MAJOR_LABEL: "12", names.GPU_MINOR_LABEL: "1"}


def node(name: str = "n", **labels: str) -> tuple[Any, Raw]:
    return NODES, {"metadata": {"name": name, "labels": SPARK | labels}}


def accelerator_class(name: str = "gb10-sm121", **spec: Any) -> tuple[Any, Raw]:
    shipped = {"image": "trainer", **SHIPPED["gb10-sm121"], **spec}
    return CLASSES, {
        "apiVersion": "curriculum.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": name},
        "spec": shipped,
    }


@asynccontextmanager
async def running(shelf: Shelf, **options: Any) -> AsyncIterator[Engine]:
    engine = Engine(shelf, Settings(lease_namespace="ns", **options), WarpClock())
    task = asyncio.create_task(engine.run())
    try:
        yield engine
    finally:
        task.cancel()
        await asyncio.wait({task})


def said(shelf: Shelf, name: str = "n") -> tuple[str | None, str | None]:
    meta = shelf.objects["Node", "", name]["metadata"]
    annotations = meta.get("annotations") or {}
    return (
        meta["labels"].get(names.CLASS_LABEL),
        annotations.get(names.CLASS_REASON_ANNOTATION),
    )


LABELLED = ("gb10-sm121", "by compute capability 12.1")


@warped
async def test_a_node_is_labelled_once_and_read_no_more_often_than_needed() -> None:
    shelf = Shelf(node(), accelerator_class())
    async with running(shelf):
        await asyncio.sleep(30)
        assert said(shelf) == LABELLED
        assert shelf.calls.count("patch Node n") == 1
        assert "get Node n" not in shelf.reads


@warped
async def test_a_new_process_finds_nothing_to_write() -> None:
    shelf = Shelf(node(), accelerator_class())
    async with running(shelf):
        await asyncio.sleep(30)
    shelf.calls.clear()
    async with running(shelf):
        await asyncio.sleep(30)
        assert "patch Node n" not in shelf.calls


@warped
async def test_a_heartbeat_that_was_watched_costs_no_refused_write() -> None:
    shelf = Shelf(node(), accelerator_class())
    # The first watch breaks; the second one tells of the heartbeat.
    beaten: Script = []
    shelf.scripts["Node"] = deque([[Unavailable("broke")], beaten])
    async with running(shelf) as engine:
        await asyncio.sleep(0.2)
        assert said(shelf) == LABELLED
        beaten.append(("MODIFIED", shelf.put(NODES, shelf.objects["Node", "", "n"])))
        await asyncio.sleep(5)
        del engine.stores.classes["gb10-sm121"]
        engine.offer_changed()
        await asyncio.sleep(5)
        assert said(shelf)[0] is None
        assert shelf.calls.count("patch Node n") == 2


@warped
async def test_a_heartbeat_between_is_read_over() -> None:
    shelf = Shelf(node(), accelerator_class())
    shelf.errors("patch Node n", Conflict("the object has been modified"))
    async with running(shelf):
        await asyncio.sleep(30)
        assert said(shelf) == LABELLED
        assert shelf.calls.count("patch Node n") == 2
        assert shelf.reads.count("get Node n") == 1


@warped
async def test_what_an_admin_said_meanwhile_is_heard() -> None:
    shelf = Shelf(node(), accelerator_class())
    async with running(shelf) as engine:
        # Not told to the store: the version that it knows is stale from here on.
        shelf.put(*node(**{names.CLASS_LABEL: "mine", names.MANAGED_LABEL: "false"}))
        engine.offer_changed()
        await asyncio.sleep(60)
        assert said(shelf) == ("mine", None)


@warped
async def test_a_server_that_throttles_is_asked_again_when_it_said() -> None:
    shelf = Shelf(node(), accelerator_class())
    shelf.errors("patch Node n", *[Unavailable("429: slow down", retry_after=7.0)] * 2)
    async with running(shelf):
        await asyncio.sleep(6)
        assert shelf.calls.count("patch Node n") == 1
        await asyncio.sleep(20)
        assert said(shelf) == LABELLED
        assert shelf.calls.count("patch Node n") == 3


@warped
async def test_a_node_that_always_conflicts_is_left_alone_for_a_while() -> None:
    shelf = Shelf(node(), accelerator_class())
    shelf.errors("patch Node n", *[Conflict("modified")] * 3)
    async with running(shelf):
        await asyncio.sleep(0.5)
        assert shelf.calls.count("patch Node n") == 3
        await asyncio.sleep(30)
        assert said(shelf) == LABELLED


class Counting(Shelf):
    """How many patches are under way at once."""

    now = most = 0

    async def patch(self, *args: Any, **kwargs: Any) -> Raw:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().patch(*args, **kwargs)
        finally:
            self.now -= 1


@warped
async def test_many_nodes_are_labelled_a_few_at_a_time() -> None:
    shelf = Counting(accelerator_class(), *(node(f"n{i}") for i in range(100)))
    async with running(shelf, node_workers=5):
        await asyncio.sleep(30)
    assert [said(shelf, f"n{i}") for i in range(100)] == [LABELLED] * 100
    assert shelf.most == 5


@warped
async def test_a_conflict_of_classes_is_told_once_as_an_event_of_the_node() -> None:
    shelf = Shelf(node(), accelerator_class(), accelerator_class("mine"))
    async with running(shelf):
        await asyncio.sleep(30)
    async with running(shelf):
        await asyncio.sleep(30)
    (event,) = [raw for key, raw in shelf.objects.items() if key[0] == "Event"]

    assert said(shelf)[0] is None
    assert (event["type"], event["reason"], event["count"]) == ("Warning", "ClassConflict", 1)
    assert event["message"] == said(shelf)[1]
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "n",
        "uid": "n",
    }
    assert event["metadata"]["namespace"] == "default"
