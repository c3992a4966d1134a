"""Variables of a class or a phase that do not go with the fabric: each explained in one line."""

from typing import Any

import pytest

from .builders import accelerator, b200, curriculum, phase, pool, scene

RDMA = {"profile": "gb10-switch", "rdmaResource": "rdma/hca"}


def refusal(fabric: dict[str, Any], *env: tuple[str, str], **fields: Any) -> str:
    """What a phase with these variables is told; empty where it starts."""
    given = phase(env=[{"name": name, "value": value} for name, value in env], **fields)
    kind = accelerator(fabric=fabric)
    step = scene(curriculum(phases=(given,)), classes={"gb10-sm121": kind}).step()
    stalled = next(c for c in step.status.conditions if c.type == "Stalled")
    return stalled.message if step.rule == "invalid" else ""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("NCCL_SOCKET_IFNAME", "eth9", 'sets "=enP7s7": remove it, and set the values of the'),
        ("NCCL_IB_DISABLE", "1", "gives the pods RDMA devices: remove it"),
        ("NCCL_NET", "Socket", "gives the pods RDMA devices: remove it"),
        ("NCCL_IB_GID_INDEX", "3", "must not be set: the index differs between nodes and drifts"),
        ("NCCL_IB_TIMEOUT", "", "is empty, which NCCL reads as 0: remove it"),
        ("MASTER_ADDR", "here", "is reserved for the operator; remove it"),
        ("LD_LIBRARY_PATH", "/x", "is reserved for the operator; remove it"),
    ],
)
def test_a_variable_against_the_fabric_is_explained(name: str, value: str, message: str) -> None:
    told = refusal(RDMA, (name, value))
    assert told.startswith(f'phase "math": env "{name}" ')
    assert message in told
    assert "\n" not in told


def test_what_goes_with_the_fabric_is_left_alone() -> None:
    assert not refusal(RDMA, ("NCCL_DEBUG", "INFO"), ("NCCL_IB_TIMEOUT", "22"), ("X", ""))
    assert not refusal(RDMA, ("NCCL_IB_DISABLE", "0"))
    assert not refusal({"profile": "gb10-switch"}, ("NCCL_NET", "Socket"))


@pytest.mark.parametrize(
    ("profile", "name", "why"),
    [
        ("b200-gke", "NCCL_ALGO", "Google's script sets NCCL up"),
        ("b200-gke", "NCCL_IB_HCA", "Google's script sets NCCL up"),
        ("b200-eks", "NCCL_BUFFSIZE", "Amazon's plugin chooses it"),
        ("b200-eks", "NCCL_IB_HCA", "EFA is no InfiniBand device"),
    ],
)
def test_a_cloud_says_what_it_does_not_want(profile: str, name: str, why: str) -> None:
    assert f'"{name}" does not go with fabric profile "{profile}": {why}' in refusal(
        {"profile": profile}, (name, "1")
    )
    assert not refusal({"profile": profile}, ("NCCL_DEBUG", "INFO"))


def test_a_broken_fabric_of_a_pool_is_the_pools() -> None:
    long = phase("long", acceleratorClass="b200-sm100", pool="b200-cloud", nodes=1)
    there = {"b200-cloud": pool(fabric={"profile": "nowhere"})}
    step = scene(curriculum(phases=(long,)), classes={"b200-sm100": b200()}, pools=there).step()
    stalled = next(c for c in step.status.conditions if c.type == "Stalled")
    assert stalled.message.startswith(
        'phase "long": rented pool "b200-cloud": fabric profile "nowhere" does not exist; known: '
    )


def test_shared_memory_that_starves_unified_memory_is_refused() -> None:
    kind = accelerator(sharedMemoryGiB=64)
    step = scene(classes={"gb10-sm121": kind}).step()
    stalled = next(c for c in step.status.conditions if c.type == "Stalled")
    assert "64 of the 119 GiB" in stalled.message
    assert "set sharedMemoryGiB to 29 or less" in stalled.message


@pytest.mark.parametrize(
    ("fabric", "key", "message"),
    [
        (RDMA, "k8s.v1.cni.cncf.io/networks", "does nothing for pods on the node's network"),
        ({"profile": "b200-gke"}, "networking.gke.io/default-interface", "is set otherwise by"),
    ],
)
def test_an_annotation_against_the_fabric_is_explained(
    fabric: dict[str, Any], key: str, message: str
) -> None:
    assert message in refusal(fabric, podTemplate={"annotations": {key: "mine"}})
    assert not refusal({"profile": "infiniband"}, podTemplate={"annotations": {key: "mine"}})


def test_a_volume_where_the_fabric_mounts_its_own_is_refused() -> None:
    mine = {"volumes": [{"name": "gke-gib"}], "mounts": []}
    assert 'volume "gke-gib" is there twice' in refusal({"profile": "b200-gke"}, podTemplate=mine)
