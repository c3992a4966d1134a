"""`curriculum doctor --cluster, --node, --pair, --fabric`: what a cluster shows, row by row."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.cli.shown_cluster import (
    SPARK,
    Objects,
    ShownCluster,
    accelerator,
    curriculum,
    daemon,
    found,
    kueue,
    rows,
    sound,
    spark,
    workload,
)
from typer.testing import CliRunner

from curriculum_api.preflight.figures import Check as Measure
from curriculum_api.preflight.figures import Measured, NodeFigures, PairFigures, Proof
from curriculum_cli import doctor_cluster
from curriculum_cli.main import app
from curriculum_operator import kinds, names
from curriculum_operator.cluster import Kind, Raw, Refused, Unavailable

KUEUE = "integrations: {frameworks: [batch/job, trainer.kubeflow.org/trainjob]}"


@pytest.mark.parametrize(
    "asked", [{}, {"node": "spark-1"}, {"pair": "spark-1,spark-2"}, {"fabric": True}]
)
def test_a_sound_cluster_passes_every_check_and_needs_no_remedy(asked: dict[str, Any]) -> None:
    objects = sound()
    told = rows(objects, **asked)
    assert told
    assert [(row.name, row.verdict, row.remedy) for row in told if row.verdict != "PASS"] == []
    assert [row.name for row in told if row.remedy] == []


def change(kind: Kind, *objects: Raw) -> Callable[[Objects], None]:
    return lambda all_objects: all_objects.update({kind: list(objects)})


def deployments(*objects: Raw) -> Callable[[Objects], None]:
    return change(kinds.DEPLOYMENTS, *objects)


OLD_GPU_OPERATOR = workload("gpu-operator", "nvcr.io/nvidia/gpu-operator:v25.3.4")
OPERATOR = {"app.kubernetes.io/name": "curriculum-operator"}


@pytest.mark.parametrize(
    ("broken", "name", "verdict", "remedy"),
    [
        pytest.param(lambda o: o.pop(kinds.CURRICULA), "kinds", "FAIL", "helm", id="no-crds"),
        pytest.param(deployments(), "operator", "FAIL", "helm install", id="no-operator"),
        pytest.param(
            deployments(workload("c", "c:1", OPERATOR, ready=0)),
            "operator", "FAIL", "-n system logs deploy/c", id="operator-down",
        ),
        pytest.param(
            deployments(workload("c", "c:1", OPERATOR | {"app.kubernetes.io/version": "9.9"})),
            "operator", "WARN", "install the same", id="version-skew",
        ),
        pytest.param(
            lambda o: o.pop(kinds.PYTORCHJOBS), "training-operator", "FAIL", "1.9", id="no-jobs"
        ),
        pytest.param(
            change(kinds.DAEMONSETS,
                   daemon("p", "reg.io:5000/nvidia/k8s-device-plugin:v0.17.3-ubi9@sha256:00",
                          ready=3, wanted=3)),
            "device plugin", "FAIL", "0.17.4 or newer", id="old-plugin",
        ),
        pytest.param(
            change(kinds.DAEMONSETS, daemon("p", "k8s-device-plugin:v0.18.0", ready=2, wanted=3)),
            "device plugin", "WARN", "grep p", id="plugin-down-on-a-node",
        ),
        pytest.param(change(kinds.DAEMONSETS), "device plugin", "WARN", "install", id="no-plugin"),
        pytest.param(
            lambda o: o[kinds.DEPLOYMENTS].append(OLD_GPU_OPERATOR),
            "GPU Operator", "FAIL", "25.10.0 or newer", id="old-gpu-operator",
        ),
        pytest.param(
            change(kinds.CONFIGMAPS, kueue(KUEUE)), "Kueue", "WARN", "frameworks", id="not-queued"
        ),
        pytest.param(
            change(kinds.ADMISSION_POLICIES), "node policy", "WARN", "enabled", id="no-policy"
        ),
        pytest.param(
            change(kinds.NODES, spark("s", ready="False")), f"class {SPARK}", "FAIL", "--node s",
            id="no-node-can-be-used",
        ),
        pytest.param(
            change(kinds.NODES, spark("s", labels={names.CLASS_LABEL: "b200-sm100"})),
            "labels", "FAIL", "log", id="a-wrong-label",
        ),
        pytest.param(
            lambda o: o.update({kinds.DAEMONSETS: Refused(403, "no")}),
            "rights", "WARN", "right to list", id="not-shown",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_cluster_has_its_row_and_its_remedy(
    broken: Callable[[Objects], object], name: str, verdict: str, remedy: str
) -> None:
    objects = sound()
    broken(objects)
    row = found(objects, name)
    assert (row.verdict, remedy in row.remedy) == (verdict, True), row


@pytest.mark.parametrize(
    ("kind", "left_out"),
    [
        (kinds.DEPLOYMENTS, {"operator"}),
        (kinds.DAEMONSETS, {"device plugin"}),
        (kinds.CONFIGMAPS, {"Kueue"}),
        (kinds.NODES, {f"class {SPARK}", "device plugin"}),
        (kinds.CLASSES, {f"class {SPARK}"}),
    ],
)
def test_what_is_not_shown_is_not_called_absent(kind: Kind, left_out: set[str]) -> None:
    objects = sound() | {kinds.CURRICULA: [curriculum(queue="team")]}
    all_names = {row.name for row in rows(objects)}
    objects[kind] = Refused(403, "no")
    told = rows(objects)
    assert {row.name for row in told} == (all_names - left_out) | {"rights"}
    assert {row.verdict for row in told if row.name != "rights"} == {"PASS"}
    if kind in (kinds.NODES, kinds.CLASSES):
        with pytest.raises(ValueError, match=f"does not show you its {kind.plural}"):
            rows(objects, node="spark-1")


def test_a_curriculum_that_cannot_be_read_is_named() -> None:
    objects = sound()
    wrong = curriculum(queue="")
    wrong["spec"]["phases"][0]["tokens"] = "many"
    objects[kinds.CURRICULA] = [curriculum(queue=""), wrong]
    row = found(objects, "kinds")
    assert (row.verdict, row.value) == (
        "FAIL", "served; curricula: 1, and 1 that this version cannot read"
    )  # fmt: skip
    assert 'TrainingCurriculum "research/slm"' in row.remedy
    assert '"many"' in row.remedy


def test_a_queue_that_kueue_does_not_keep_fails_once_a_curriculum_asks_for_it() -> None:
    objects = sound() | {
        kinds.CONFIGMAPS: [kueue(KUEUE)],
        kinds.CURRICULA: [curriculum(queue="team")],
    }
    row = found(objects, "Kueue")
    assert (row.verdict, row.floor) == ("FAIL", "kubeflow.org/pytorchjob")
    assert "past every quota" in row.remedy
    objects[kinds.CONFIGMAPS] = []
    assert "does nothing without Kueue" in found(objects, "Kueue").remedy


def test_nodes_without_what_their_fabric_needs_are_named() -> None:
    objects = sound()
    fabric = {"profile": "gb10-switch", "rdmaResource": "rdma/roce"}
    objects[kinds.CLASSES] = [accelerator(fabric=fabric)]
    objects[kinds.NODES] = [
        spark("spark-1", allocatable={"rdma/roce": "1"}),
        spark("spark-2"),
    ]
    row = found(objects, "devices", fabric=True)
    assert (row.verdict, row.value) == ("FAIL", "1 of 2 nodes offer what it needs")
    assert "spark-2" in row.remedy
    lacking = found(objects, "rdma/roce", node="spark-2")
    assert (lacking.verdict, lacking.value, lacking.floor) == ("FAIL", "0", "1")
    assert found(objects, "rdma/roce", node="spark-1").verdict == "PASS"


def test_what_phases_saw_of_their_fabric_is_told() -> None:
    objects = sound() | {kinds.CURRICULA: [curriculum(queue="")]}
    row = found(objects, "in use", fabric=True)
    assert (row.subject, row.verdict) == ("research/slm", "FAIL")
    assert "no /dev/infiniband" in row.value


def test_a_site_profile_is_read_where_the_operator_reads_it() -> None:
    objects = sound()
    deployment = workload("curriculum-operator", "c:1", OPERATOR)
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": doctor_cluster.PROFILES_ENV, "value": "site"}]
    objects[kinds.DEPLOYMENTS] = [deployment]
    objects[kinds.CLASSES] = [accelerator(fabric={"profile": "ours"})]
    assert "ours" in found(objects, "profile", fabric=True).remedy
    text = "about: our own\n---\nNCCL_DEBUG=WARN\n"
    site = {"metadata": {"name": "site", "namespace": "system"}, "data": {"ours.env.j2": text}}
    objects[kinds.CONFIGMAPS] = [site]
    row = found(objects, "profile", fabric=True)
    assert (row.verdict, row.value) == ("PASS", "ours (of the site), over sockets")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"node": "s-9"}, 'there is no node "s-9"; known: spark-1, spark-2, spark-3'),
        ({"pair": "spark-1"}, "two nodes with a comma"),
        ({"pair": "spark-1,spark-1"}, "two nodes with a comma"),
        ({"node": "spark-1", "fabric": True}, "give one of them"),
        ({"measuring": doctor_cluster.Measuring("d", "", print)}, "with --node or --pair"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_line(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        rows(sound(), **asked)
    assert told in str(error.value)


def reach(monkeypatch: pytest.MonkeyPatch, connect: Any) -> None:
    """Have the command reach this cluster."""
    defaults = {**(doctor_cluster.rows.__kwdefaults__ or {}), "connect": connect}
    monkeypatch.setattr(doctor_cluster.rows, "__kwdefaults__", defaults)


def test_the_command_prints_a_table_for_each_node_and_exits_with_what_it_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects = sound()

    async def connect() -> Any:
        return ShownCluster(objects)

    reach(monkeypatch, connect)
    good = CliRunner().invoke(app, ["doctor", "--pair", "spark-1,spark-2"])
    assert good.exit_code == 0, good.output
    heads = [line for line in good.output.splitlines() if line.startswith("spark-")]
    assert heads == ["spark-1", "spark-2", "spark-1, spark-2"]

    objects[kinds.NODES] = [spark("spark-1", ready="False"), spark("spark-2")]
    bad = CliRunner().invoke(app, ["doctor", "--node", "spark-1", "-o", "json"])
    assert bad.exit_code == 1
    assert "is not Ready" in {row["value"] for row in json.loads(bad.output)["checks"]}


def test_what_is_measured_now_goes_before_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    async def measured(_there: Any, nodes: tuple[str, ...], **how: Any) -> Proof:
        asked.update(how, nodes=nodes)
        figures = NodeFigures(node="spark-1", figures={Measure.MATMUL: 90.0})
        slow = NodeFigures(node="spark-2", figures={Measure.MATMUL: 20.0})
        pair = PairFigures(nodes=("spark-1", "spark-2"), figures={Measure.LINK: 3.0})
        found = Measured(precision="BF16", nodes=(figures, slow), pairs=(pair,))
        floors = {Measure.MATMUL: 64.0, Measure.LINK: 14.0}
        return Proof(measured=found, floors=floors, remarks=("storage is slow for all",),
                     fabric="gloo over sockets")  # fmt: skip

    monkeypatch.setattr("curriculum_cli.doctor_measure.on_cluster", measured)
    now = doctor_cluster.Measuring("team", "volume", print)
    told = rows(sound(), pair="spark-1,spark-2", measuring=now)

    assert asked["nodes"] == ("spark-1", "spark-2")
    assert (asked["namespace"], asked["claim"], asked["profiles"]) == ("team", "volume", {})
    figures = [(r.subject, r.verdict, r.value) for r in told if r.name in ("matmul", "link")]
    assert figures == [
        ("spark-1", "PASS", "90 TFLOPS"),
        ("spark-2", "FAIL", "20 TFLOPS"),
        ("spark-1, spark-2", "FAIL", "3 GB/s"),
    ]
    assert [(r.name, r.verdict) for r in told[-2:]] == [("transport", "PASS"), ("remark", "WARN")]


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect() -> Any:
        return ShownCluster({kinds.NODES: Unavailable("GET /api/v1/nodes: refused")})

    reach(monkeypatch, connect)
    told = CliRunner().invoke(app, ["doctor", "--cluster"])
    assert told.exit_code == 1
    assert told.output == (
        "curriculum doctor: the cluster does not answer: GET /api/v1/nodes: refused\n"
    )
