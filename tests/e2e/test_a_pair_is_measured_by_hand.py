"""`curriculum doctor --pair A,B --measure` on real kubelets: figures of both Sparks and of the link
between them; with one cable throttled the link's figure follows, and nothing is left behind."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.e2e.watching import Site

from curriculum_api.preflight.figures import Check, Proof
from curriculum_cli import doctor_measure
from curriculum_operator import cluster as clusters
from curriculum_operator import names

NAMESPACE = "measured"
SPARKS = ("spark-1", "spark-2")

LINK = 350
"""Mbit/s that both cables carry: a figure that this machine is sure to reach."""

SLOW = LINK // 7


@pytest.fixture(scope="module")
def sparks(place: Site) -> Iterator[Site]:
    """Both Sparks, with cables of one kind, and a namespace with the claims."""
    place.namespace(NAMESPACE)
    for name in SPARKS:
        place.cluster.limit_link(name, LINK)
    yield place
    for name in SPARKS:
        place.cluster.limit_link(name, None)


@pytest.mark.e2e
@pytest.mark.timeout(20 * 60)
def test_a_pair_has_its_figures_and_a_throttled_one_others(
    sparks: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = sparks.cluster
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    sound = _measure(*SPARKS)
    assert sorted(node.node for node in sound.measured.nodes) == list(SPARKS)
    for node in sound.measured.nodes:
        assert node.boot
        assert {Check.MATMUL, Check.MEMORY, Check.WRITE, Check.READ} <= node.figures.keys()
    assert sound.fabric.startswith("gloo over ")

    cluster.limit_link("spark-2", SLOW)
    slow = _measure(*SPARKS)
    assert 0.5 * LINK < _megabits(sound) < 1.2 * LINK
    assert _megabits(slow) < 1.5 * SLOW

    (alone,) = _measure("spark-2").measured.nodes
    assert alone.node == "spark-2"
    left = cluster.get("pytorchjobs,configmaps", "-A", f"-l={names.MEASUREMENT_LABEL}")["items"]
    assert left == []


def _measure(*nodes: str) -> Proof:
    async def asked() -> Proof:
        async with await clusters.connect() as there:
            return await doctor_measure.on_cluster(
                there, nodes, namespace=NAMESPACE, claim="checkpoints", profiles={}, say=print
            )

    return asyncio.run(asked())


def _megabits(found: Proof) -> float:
    """What the pair's link carries, in the unit of its cable."""
    (pair,) = found.measured.pairs
    assert set(pair.nodes) == set(SPARKS)
    return 8000 * pair.figures[Check.LINK]
