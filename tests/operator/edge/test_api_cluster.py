"""The client does on a real API server what the Protocol says; the fixture gives a kubeconfig."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio

from curriculum_operator import cluster
from curriculum_operator.cluster import CONFIGMAPS, NODES, PODS, ApiCluster, Raw

pytestmark = pytest.mark.apiserver

LABELS = {"made-by": "test-api-cluster"}


def config_map(name: str, **data: str) -> Raw:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": LABELS},
        "data": data,
    }


@pytest_asyncio.fixture
async def api(apiserver: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiCluster]:
    monkeypatch.setenv("KUBECONFIG", str(apiserver))
    async with await cluster.connect() as connected:
        yield connected
        found, _ = await connected.list(CONFIGMAPS, label_selector="made-by=test-api-cluster")
        for raw in found:
            await connected.delete(CONFIGMAPS, raw["metadata"]["name"], "default")


async def test_an_object_is_made_read_replaced_and_deleted(api: ApiCluster) -> None:
    made = await api.create(CONFIGMAPS, config_map("one", a="1"))
    assert await api.get(CONFIGMAPS, "one", "default") == made
    newer = await api.replace(CONFIGMAPS, {**made, "data": {"a": "2"}})
    with pytest.raises(cluster.AlreadyExists):
        await api.create(CONFIGMAPS, config_map("one"))
    with pytest.raises(cluster.Conflict):
        await api.replace(CONFIGMAPS, made)
    with pytest.raises(cluster.Conflict):
        await api.delete(CONFIGMAPS, "one", "default", uid="of-another")
    await api.delete(CONFIGMAPS, "one", "default", uid=newer["metadata"]["uid"])
    with pytest.raises(cluster.NotFound):
        await api.get(CONFIGMAPS, "one", "default")
    with pytest.raises(cluster.Refused):
        await api.create(CONFIGMAPS, config_map("Not_A_Name"))


async def test_a_node_is_marked_as_it_was_seen_or_not_at_all(api: ApiCluster) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "marked", "labels": LABELS}}
    made = await api.create(NODES, node)
    try:
        seen = made["metadata"]["resourceVersion"]
        marks = {"metadata": {"labels": {"x.y/a": "1"}, "annotations": {"x.y/b": "2"}}}
        raw = await api.patch(NODES, "marked", marks, resource_version=seen)
        assert raw["metadata"]["labels"] == {**LABELS, "x.y/a": "1"}
        assert raw["metadata"]["annotations"] == {"x.y/b": "2"}
        with pytest.raises(cluster.Conflict):
            await api.patch(NODES, "marked", marks, resource_version=seen)
        newer = raw["metadata"]["resourceVersion"]
        again = await api.patch(NODES, "marked", marks, resource_version=newer)
        assert again["metadata"]["resourceVersion"] == newer
        none = {"metadata": {"labels": {"x.y/a": None}, "annotations": {"x.y/b": None}}}
        raw = await api.patch(NODES, "marked", none, resource_version=newer)
        assert raw["metadata"]["labels"] == LABELS
        assert "annotations" not in raw["metadata"]
    finally:
        await api.delete(NODES, "marked")


async def test_a_list_is_whole_over_its_pages(
    api: ApiCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PAGE_SIZE", 2)
    for number in range(5):
        await api.create(CONFIGMAPS, config_map(f"page-{number}"))
    found, _ = await api.list(CONFIGMAPS, label_selector="made-by=test-api-cluster")
    assert sorted(raw["metadata"]["name"] for raw in found) == [f"page-{n}" for n in range(5)]


async def test_a_list_leaves_out_what_nobody_reads(api: ApiCluster) -> None:
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "full", "labels": LABELS},  # no field set: no managedFields kept
        "status": {
            "images": [{"names": ["x:1"], "sizeBytes": 1}],
            "capacity": {"memory": "1Gi"},
        },
    }
    await api.create(NODES, node)
    try:
        (listed,) = (await api.list(NODES))[0]
        whole = await api.get(NODES, "full")
        assert "managedFields" in whole["metadata"]
        assert "images" in whole["status"]
        assert "managedFields" not in listed["metadata"]
        assert listed["status"] == {k: v for k, v in whole["status"].items() if k != "images"}
    finally:
        await api.delete(NODES, "full")


async def test_a_watch_tells_what_happened_since_the_list(api: ApiCluster) -> None:
    _, version = await api.list(CONFIGMAPS)
    made = await api.create(CONFIGMAPS, config_map("watched"))
    await api.replace(CONFIGMAPS, {**made, "data": {"x": "y" * 200_000}})
    await api.delete(CONFIGMAPS, "watched", "default")
    told: list[str] = []
    stream: Any = api.watch(
        CONFIGMAPS, resource_version=version, label_selector="made-by=test-api-cluster"
    )
    async with asyncio.timeout(20), aclosing(stream):
        async for event, _ in stream:
            told.append(event)
            if event == "DELETED":
                break
    assert told == ["ADDED", "MODIFIED", "DELETED"]


async def test_a_token_that_nobody_gave_is_nobodys(api: ApiCluster) -> None:
    assert await api.review_token("invented", "curriculum.dev/progress") is None


async def test_a_log_is_asked_of_the_pods_node(api: ApiCluster) -> None:
    container = {"name": "pytorch", "image": "x"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "silent", "namespace": "default", "labels": LABELS},
        "spec": {"containers": [container], "schedulerName": "nobody"},
    }
    with pytest.raises(cluster.NotFound):
        await api.log("default", "silent", container="pytorch", tail=1)
    await api.create(PODS, pod)
    try:
        assert await api.log("default", "silent", container="pytorch", tail=1) == ""
        with pytest.raises(cluster.Refused):
            await api.log("default", "silent", container="other", tail=1)
    finally:
        await api.delete(PODS, "silent", "default", grace_seconds=0)
