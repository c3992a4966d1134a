"""A Spark with a slow link, a slow processor or a lossy cable is found by the phase's own pods,
named, and kept from use; the phase runs on the other two, and the quarantine ends by itself or by
hand."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster import Cluster
from tests.demo.follow import Snapshot
from tests.e2e.watching import Site, phase, set_preflight

from curriculum_operator import names

NAME = "bad-node"
FILE = Path(__file__).with_name("bad-node.yaml")
SECONDS = 600

SPARKS = ("spark-1", "spark-2", "spark-3")
BAD, OTHERS = "spark-2", ["spark-1", "spark-3"]

LINK = 350
"""Mbit/s that every Spark's cable carries here: a figure that this machine is sure to reach."""

FLOOR_GBPS = "0.02"
"""Half of what a cable carries, and three times what the bad one does."""

QUARANTINE_SECONDS = 60
"""Of one that ends by itself, the least that a class takes: it is waited out, after the phase is
seen to run on the others."""
PREFLIGHT = {
    "enabled": True,
    # what a GPU was measured to do is no floor for a CPU; nodes are held to their peers
    "share": "0",
    "floors": {"linkGBps": FLOOR_GBPS},
    "quarantineSeconds": QUARANTINE_SECONDS,
    "maxAgeSeconds": 0,
}

Fault = Callable[[Cluster], None]


@pytest.fixture(scope="module")
def sparks(place: Site) -> Iterator[Site]:
    """Three Sparks, with cables of one kind, whose class asks for a preflight."""
    cluster = place.cluster
    # first: what the class refuses must leave no node behind
    set_preflight(cluster, PREFLIGHT)
    cluster.start_node("spark-3")
    for name in SPARKS:
        cluster.limit_link(name, LINK)
    yield place
    set_preflight(cluster, {"enabled": False})
    for name in SPARKS:
        cluster.limit_link(name, None)
    cluster.remove_node("spark-3")


@pytest.mark.e2e
@pytest.mark.timeout(30 * 60)
@pytest.mark.parametrize(
    ("fault", "mend", "check", "ends"),
    [
        pytest.param(
            lambda cluster: cluster.limit_link(BAD, LINK // 7),
            lambda cluster: cluster.limit_link(BAD, LINK),
            "link",
            "by itself",
            id="a link at a seventh",
        ),
        pytest.param(
            lambda cluster: cluster.limit_processors(BAD, 0.15),
            lambda cluster: cluster.limit_processors(BAD, None),
            "matmul",
            "by hand",
            id="a seventh of a processor",
        ),
        pytest.param(
            lambda cluster: cluster.lose_packets(BAD, 0.02),
            lambda cluster: cluster.lose_packets(BAD, 0.0),
            "loss",
            "by hand",
            id="two percent of its packets lost",
        ),
    ],
)
def test_a_bad_node_is_found_named_and_kept_from_use(
    sparks: Site, fault: Fault, mend: Fault, check: str, ends: str
) -> None:
    """Its attempt does not count: the phase has one, and runs."""
    cluster, namespace = sparks.cluster, f"bad-{check}"
    sparks.namespace(namespace)
    by_hand = ends == "by hand"
    if by_hand:
        # long after the test, so that only the hand can end it
        set_preflight(cluster, {**PREFLIGHT, "quarantineSeconds": 3600})
    fault(cluster)
    try:
        sparks.apply(namespace, FILE)
        sparks.wait(namespace, NAME, "is kept", lambda _: bool(_taint(cluster, BAD)), SECONDS)
        assert _taint(cluster, BAD) == check
        assert cluster.get("node", BAD)["metadata"]["labels"][names.QUARANTINED_LABEL] == check
        for name in OTHERS:
            assert _taint(cluster, name) == ""
        reason = _annotation(cluster, BAD)
        assert reason["node"] == BAD
        assert reason["check"] == check
        seen = sparks.wait(namespace, NAME, "runs on the others", _on(OTHERS), SECONDS)
        assert phase(seen, "pretrain")["failures"] == 0
        assert f"{BAD}: {check} " in _events_of_node(cluster, BAD)
    finally:
        mend(cluster)
        # also after a failure: what runs here would hold the nodes of all tests to come
        cluster.kubectl("delete", f"tcur/{NAME}", f"--namespace={namespace}", "--wait")
    cluster.kubectl(
        "wait", "pods", "--all", f"--namespace={namespace}", "--for=delete", "--timeout=180s"
    )
    if by_hand:
        cluster.kubectl("taint", "node", BAD, f"{names.QUARANTINE_TAINT}-")
    _free(cluster, BAD, 60 if by_hand else QUARANTINE_SECONDS + 60)
    assert _taint(cluster, BAD) == ""


def _on(nodes: list[str]) -> Callable[[Snapshot], bool]:
    def holds(seen: Snapshot) -> bool:
        status = phase(seen, "pretrain")
        return status.get("state") == "Running" and sorted(status.get("nodes", [])) == nodes

    return holds


def _free(cluster: Cluster, node: str, seconds: float) -> None:
    """Wait until the node is in quarantine no more, to those who look for its label."""
    deadline = time.monotonic() + seconds
    while names.QUARANTINED_LABEL in cluster.get("node", node)["metadata"]["labels"]:
        assert time.monotonic() < deadline, f'"{node}" is in quarantine after {seconds} s'
        time.sleep(1)


def _taint(cluster: Cluster, node: str) -> str:
    taints = cluster.get("node", node)["spec"].get("taints") or []
    return next((str(t["value"]) for t in taints if t["key"] == names.QUARANTINE_TAINT), "")


def _annotation(cluster: Cluster, node: str) -> dict[str, object]:
    told = cluster.get("node", node)["metadata"]["annotations"][names.QUARANTINE_ANNOTATION]
    found: dict[str, object] = json.loads(told)
    return found


def _events_of_node(cluster: Cluster, node: str) -> str:
    found = cluster.get(
        "events",
        "--namespace=default",
        f"--field-selector=involvedObject.kind=Node,involvedObject.name={node}",
    )["items"]
    return "\n".join(str(event.get("message")) for event in found)
