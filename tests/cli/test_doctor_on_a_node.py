"""`curriculum doctor --node, --pair`: what a cluster shows of a node, row by row."""

import json

import pytest
from tests.cli.shown_cluster import SPARK, accelerator, found, record, sound, spark

from curriculum_operator import kinds, names
from curriculum_operator.cluster import Raw

QUARANTINED = {
    "taints": [{"key": names.QUARANTINE_TAINT, "value": "link", "effect": "NoSchedule"}],
    "annotations": {
        names.QUARANTINE_ANNOTATION: json.dumps(
            {"node": "s", "check": "link", "value": 0.17, "floor": 14.0, "unit": "GB/s",
             "since": "2026-01-01T00:00:00+00:00", "until": "2099-01-01T06:00:00+00:00"}
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("node", "name", "verdict", "value", "remedy"),
    [
        pytest.param(
            spark("s", ready="Unknown"), "admission", "FAIL", "is not Ready", "kubelet", id="down"
        ),
        pytest.param(
            spark("s", spec={"unschedulable": True}),
            "admission", "FAIL", "is cordoned", "kubectl uncordon s", id="cordoned",
        ),
        pytest.param(
            spark("s", **QUARANTINED),
            "admission", "FAIL", "until 2099-01-01 06:00 UTC: link 0.17 GB/s, floor 14",
            "kubectl taint node s curriculum.dev/quarantine-", id="quarantined",
        ),
        pytest.param(
            spark("s", allocatable={"nvidia.com/gpu": "0"}),
            "accelerators", "FAIL", "0 nvidia.com/gpu", "1 unhealthy", id="unhealthy-gpu",
        ),
        pytest.param(
            spark("s", capacity={"nvidia.com/gpu": "0"}, allocatable={"nvidia.com/gpu": "0"}),
            "accelerators", "FAIL", "0 nvidia.com/gpu", "device plugin", id="no-device-plugin",
        ),
        pytest.param(
            spark("s", kernel="7.0.0-1019-nvidia"),
            "kernel", "WARN", "7.0.0-1019-nvidia", "kho=off", id="broken-kernel",
        ),
        pytest.param(
            spark("s", capacity={"memory": "64Gi"}),
            "memory size", "WARN", "64.0 GiB", "memoryGiB to 64", id="little-memory",
        ),
        pytest.param(
            spark("s", labels={names.GPU_MAJOR_LABEL: "13", names.CLASS_LABEL: ""}),
            "class", "FAIL", "no AcceleratorClass claims", "13.1, not 12.1", id="unknown",
        ),
        pytest.param(
            spark("s", kept=record(matmul=30.0)),
            "matmul", "FAIL", "30 TFLOPS, ", "low clock", id="slow",
        ),
        pytest.param(
            spark("s", kept=record(hours=50)),
            "matmul", "WARN", "91 TFLOPS, 2 days ago", "too old", id="long-ago",
        ),
        pytest.param(
            spark("s"), "preflight", "WARN", "not measured", "--measure", id="never"
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_node_has_its_row_and_its_remedy(
    node: Raw, name: str, verdict: str, value: str, remedy: str
) -> None:
    objects = sound() | {kinds.NODES: [node]}
    row = found(objects, name, node="s")
    assert (row.subject, row.verdict) == ("s", verdict)
    assert value in row.value
    assert remedy in row.remedy


def test_a_node_is_tolerated_by_the_pool_that_it_is_rented_from_and_by_no_other() -> None:
    """Pools of two classes may select the same label."""
    taint = {"key": "rented", "value": "yes", "effect": "NoSchedule"}
    objects = sound() | {kinds.NODES: [spark("s", labels={"site": "there"}, taints=[taint])]}

    def pool_of(name: str, tolerated: str = "rented") -> Raw:
        spec = {
            "acceleratorClass": name, "maxNodes": 1, "pricePerGPUHour": "1",
            "nodeSelector": {"site": "there"},
            "tolerations": [{"key": tolerated, "operator": "Exists"}],
        }  # fmt: skip
        return {"metadata": {"name": f"of-{name}-{tolerated}"}, "spec": spec}

    objects[kinds.POOLS] = [pool_of("b200-sm100"), pool_of(SPARK, "other")]
    row = found(objects, "admission", node="s")
    assert (row.verdict, row.value) == ("FAIL", "has a taint that is not tolerated")
    objects[kinds.POOLS] = [pool_of(SPARK, "other"), pool_of(SPARK)]
    assert found(objects, "admission", node="s").verdict == "PASS"


def test_where_every_attempt_measures_no_figure_is_too_old() -> None:
    objects = sound() | {kinds.NODES: [spark("s", kept=record(hours=50))]}
    objects[kinds.CLASSES] = [accelerator(preflight={"share": "0", "maxAgeSeconds": 0})]
    row = found(objects, "matmul", node="s")
    assert (row.verdict, row.value) == ("PASS", "91 TFLOPS, 2 days ago")


def test_a_node_is_held_to_its_peers_too() -> None:
    objects = sound()
    objects[kinds.CLASSES] = [accelerator(preflight={"share": "0"})]
    objects[kinds.NODES] = [
        spark("spark-1", kept=record(matmul=40.0)),
        *(spark(f"spark-{n}", kept=record()) for n in (2, 3)),
    ]
    row = found(objects, "matmul", node="spark-1")
    assert (row.verdict, row.floor) == ("FAIL", "45.5 TFLOPS")
    assert "half of what its peers reach" in row.remedy


def test_a_slow_link_is_told_with_whose_it_is() -> None:
    objects = sound()
    objects[kinds.NODES] = [
        spark("spark-1", kept=record(spark_2=2.0, spark_3=22.0)),
        spark("spark-2", kept=record(spark_1=2.0)),
        spark("spark-3", kept=record(spark_1=22.0)),
    ]
    row = found(objects, "link", pair="spark-1,spark-2")
    assert (row.subject, row.verdict) == ("spark-1, spark-2", "FAIL")
    assert (row.value, row.floor) == ("2 GB/s, 60 min ago", "14 GB/s")
    assert "it is spark-2: look at cable" in row.remedy

    links = found(objects, "links", fabric=True)
    assert links.value == "2 known; the slowest 2 GB/s (spark-1, spark-2)"
    assert "--pair spark-1,spark-2" in links.remedy
