"""`curriculum doctor` on real kubelets: a cluster, a node, a pair measured by hand; with one cable
throttled the pair fails and is told what to do, and nothing is left behind."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.demo import site
from tests.e2e.watching import Site, set_preflight

from curriculum_operator import names

NAMESPACE = "measured"
SPARKS = ("spark-1", "spark-2")
PAIR = ("--pair", ",".join(SPARKS), "--measure", "-n", NAMESPACE, "--claim", "checkpoints")

LINK = 350
"""Mbit/s that both cables carry: a figure that this machine is sure to reach."""

SLOW = LINK // 7
FLOOR = 0.02
"""GB/s: half of what a sound cable carries, three times what the slow one does."""

Rows = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def sparks(place: Site) -> Iterator[Site]:
    """Both Sparks, with cables of one kind, and a namespace with the claims."""
    place.namespace(NAMESPACE)
    for name in SPARKS:
        place.cluster.limit_link(name, LINK)
    # phases measure nothing; by hand the same floors hold
    floors = {"linkGBps": str(FLOOR)}
    set_preflight(place.cluster, {"enabled": False, "share": "0", "floors": floors})
    yield place
    for name in SPARKS:
        place.cluster.limit_link(name, None)


@pytest.mark.e2e
@pytest.mark.timeout(20 * 60)
def test_a_pair_has_its_figures_and_a_throttled_one_fails(sparks: Site) -> None:
    cluster = sparks.cluster
    code, told = _doctor(sparks, "--cluster")
    assert code == 0, told
    assert told["", "operator"]["value"].endswith("1 of 1 ready")
    assert told["", "class gb10-sm121"]["value"] == "2 of 2 nodes can be used"

    code, sound = _doctor(sparks, *PAIR)
    assert code == 0, sound
    for name in SPARKS:
        assert sound[name, "class"]["value"].startswith("gb10-sm121: by compute capability 12.1")
        assert {"matmul", "memory free", "write", "read"} <= {n for of, n in sound if of == name}
    assert sound["", "transport"]["value"].startswith("gloo over ")
    assert 0.5 * LINK < _megabits(sound) < 1.2 * LINK

    cluster.limit_link("spark-2", SLOW)
    code, slow = _doctor(sparks, *PAIR)
    assert code == 1
    assert _megabits(slow) < 1.5 * SLOW
    link = slow[", ".join(SPARKS), "link"]
    assert (link["verdict"], link["floor"]) == ("FAIL", f"{FLOOR} GB/s")
    assert "look at cable" in link["remedy"]

    code, alone = _doctor(sparks, "--node", "spark-2", "--measure", "-n", NAMESPACE)
    assert (code, alone["spark-2", "matmul"]["verdict"]) == (0, "PASS")
    assert ("spark-2", "write") not in alone, "storage is measured where a claim is named"
    left = cluster.get("pytorchjobs,configmaps", "-A", f"-l={names.MEASUREMENT_LABEL}")["items"]
    assert left == []


def _doctor(place: Site, *options: str) -> tuple[int, Rows]:
    """Run the command as a user does; its exit code and its rows by subject and name."""
    done = subprocess.run(
        [sys.executable, "-m", "curriculum_cli.main", "doctor", *options, "-o", "json"],
        env={**os.environ, "KUBECONFIG": str(place.cluster.kubeconfig)},
        cwd=site.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout)["checks"]
    return done.returncode, {(row["subject"], row["name"]): row for row in rows}


def _megabits(rows: Rows) -> float:
    """What the pair's link carries, in the unit of its cable."""
    return 8000 * float(rows[", ".join(SPARKS), "link"]["value"].split()[0])
