"""A Spark with a slow link, a slow processor or a lossy cable is found by the phase's own pods,
named, and kept from use; the phase runs on the other two, and the quarantine ends by itself."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster import Cluster
from tests.demo.follow import Snapshot
from tests.e2e.watching import Site, phase, runs, set_preflight

NAME = "bad-node"
FILE = Path(__file__).with_name("bad-node.yaml")
SECONDS = 600

SPARKS = ("spark-1", "spark-2", "spark-3")
BAD, OTHERS = "spark-2", ["spark-1", "spark-3"]

LINK = 350
"""Mbit/s that every Spark's cable carries here: a figure that this machine is sure to reach."""

FLOOR_GBPS = "0.02"
"""Half of what a cable carries, and three times what the bad one does."""

QUARANTINE_SECONDS = 120
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
    cluster.start_node("spark-3")
    for name in SPARKS:
        cluster.limit_link(name, LINK)
    set_preflight(cluster, PREFLIGHT)
    yield place
    set_preflight(cluster, {"enabled": False})
    for name in SPARKS:
        cluster.limit_link(name, None)
    cluster.remove_node("spark-3")


@pytest.mark.e2e
@pytest.mark.timeout(30 * 60)
@pytest.mark.parametrize(
    ("fault", "mend", "check"),
    [
        pytest.param(
            lambda cluster: cluster.limit_link(BAD, LINK // 7),
            lambda cluster: cluster.limit_link(BAD, LINK),
            "link",
            id="a link at a seventh",
        ),
        pytest.param(
            lambda cluster: cluster.limit_processors(BAD, 0.15),
            lambda cluster: cluster.limit_processors(BAD, None),
            "matmul",
            id="a seventh of a processor",
        ),
        pytest.param(
            lambda cluster: cluster.lose_packets(BAD, 0.02),
            lambda cluster: cluster.lose_packets(BAD, 0.0),
            "loss",
            id="two percent of its packets lost",
        ),
    ],
)
def test_a_bad_node_is_found_named_and_kept_from_use(
    sparks: Site, fault: Fault, mend: Fault, check: str
) -> None:
    """Its attempt does not count: the phase has one, and runs."""
    cluster, namespace = sparks.cluster, f"bad-{check}"
    sparks.namespace(namespace)
    fault(cluster)
    try:
        sparks.apply(namespace, FILE)
        seen = sparks.wait(namespace, NAME, "runs on the others", _on(OTHERS), SECONDS)
        assert phase(seen, "pretrain")["failures"] == 0
        kept = sparks.wait(namespace, NAME, "is kept", lambda _: bool(_taint(cluster, BAD)), 60)
        assert runs(0)(kept)
        assert _taint(cluster, BAD) == check
        for name in OTHERS:
            assert _taint(cluster, name) == ""
        reason = _annotation(cluster, BAD)
        assert reason["node"] == BAD
        assert reason["check"] == check
        assert f"{BAD}: {check} " in _events_of_node(cluster, BAD)
    finally:
        mend(cluster)
    sparks.wait(
        namespace,
        NAME,
        "ends by itself",
        lambda _: not _taint(cluster, BAD),
        QUARANTINE_SECONDS + 60,
    )
    labels = cluster.get("node", BAD)["metadata"]["labels"]
    assert "curriculum.dev/quarantined" not in labels
    cluster.kubectl("delete", f"tcur/{NAME}", f"--namespace={namespace}", "--wait")
    cluster.kubectl("wait", "pods", "--all", f"--namespace={namespace}", "--for=delete")


def _on(nodes: list[str]) -> Callable[[Snapshot], bool]:
    def holds(seen: Snapshot) -> bool:
        status = phase(seen, "pretrain")
        return status.get("state") == "Running" and sorted(status.get("nodes", [])) == nodes

    return holds


def _taint(cluster: Cluster, node: str) -> str:
    taints = cluster.get("node", node)["spec"].get("taints") or []
    return next((str(t["value"]) for t in taints if t["key"] == "curriculum.dev/quarantine"), "")


def _annotation(cluster: Cluster, node: str) -> dict[str, object]:
    told = cluster.get("node", node)["metadata"]["annotations"]["curriculum.dev/quarantine"]
    found: dict[str, object] = json.loads(told)
    return found


def _events_of_node(cluster: Cluster, node: str) -> str:
    found = cluster.get(
        "events",
        "--namespace=default",
        f"--field-selector=involvedObject.kind=Node,involvedObject.name={node}",
    )["items"]
    return "\n".join(str(event.get("message")) for event in found)
