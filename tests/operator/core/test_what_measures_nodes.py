"""The objects of `curriculum doctor --measure`: a phase's pods, for anything but a phase."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from curriculum_api.preflight.figures import Check
from curriculum_api.run import PhaseRun
from curriculum_api.wire import Precision
from curriculum_operator import kinds, names, observe, project
from curriculum_operator.build import proof
from curriculum_operator.build.meta import Object

from ..memory import refusals
from .builders import accelerator, b200, curriculum, phase, pool, scene

GOLDEN = Path(__file__).with_name("measurement.yaml")
RDMA = {"profile": "gb10-pair", "rdmaResource": "rdma/rdma_shared_device_a"}
SPARK = accelerator(
    fabric=RDMA,
    preflight={"floors": {"linkGBps": "14"}},
    podTemplate={
        "resources": {"requests": {"cpu": "4"}},
        "volumes": [{"name": "x"}],
        "mounts": [{"name": "x", "mountPath": "/x"}],
    },
)


def objects(
    kind: observe.AcceleratorClass = SPARK,
    rented: observe.RentedPool | None = None,
    *,
    nodes: tuple[str, ...] = ("spark-1", "spark-2"),
    claim: str = "",
) -> tuple[Object, Object]:
    """The job and its run, as they are made one after the other."""
    given: dict[str, Any] = {"nodes": nodes, "claim": claim, "site": {}}
    job = proof.pytorchjob(
        "curriculum-doctor-1", "research", kind, rented, **given, deadline_seconds=840
    )
    made = {**job, "metadata": {**job["metadata"], "uid": "job-uid"}}
    return job, proof.config_map(made, kind, rented, **given)


def templates(job: Object) -> list[Object]:
    return [one["template"] for one in job["spec"]["pytorchReplicaSpecs"].values()]


def run_of(config_map: Object) -> PhaseRun:
    return PhaseRun.model_validate_json(config_map["data"]["run.json"])


def test_a_pair_of_sparks_gets_these_objects() -> None:
    golden = list(yaml.safe_load_all(GOLDEN.read_text()))
    made = objects(claim="checkpoints")
    run = made[1]["data"].pop("run.json")
    assert golden[:2] == json.loads(json.dumps(made))
    assert golden[2] == json.loads(run)


@pytest.mark.parametrize("claim", ["", "checkpoints"])
def test_an_api_server_takes_them(claim: str) -> None:
    job, config_map = objects(claim=claim)
    refusals.check(kinds.PYTORCHJOBS, job)
    refusals.check(kinds.CONFIGMAPS, config_map)
    for role, template in zip(("master", "worker"), templates(job), strict=True):
        refusals.check(
            kinds.PODS,
            {"metadata": {**template["metadata"], "name": role}, "spec": template["spec"]},
        )


@pytest.mark.parametrize(
    ("kind", "rented"),
    [
        pytest.param(SPARK, None, id="sparks with RDMA"),
        pytest.param(b200(), pool(), id="rented nodes"),
        pytest.param(accelerator(fabric={"profile": "b200-gke"}), None, id="a provider's script"),
    ],
)
def test_pods_are_those_of_a_phase_but_for_what_is_a_phases(
    kind: observe.AcceleratorClass, rented: observe.RentedPool | None
) -> None:
    given = phase(acceleratorClass=kind.name, **({"pool": rented.name} if rented else {}))
    pools = {rented.name: rented} if rented else {}
    nodes = {
        name: observe.Node(
            name=name,
            labels={
                names.CLASS_LABEL: kind.name,
                names.ARCH_LABEL: kind.spec.cpu_architecture,
                **(rented.spec.node_selector if rented else {}),
            },
            ready=True, ready_changed=None, unschedulable=False, taints=(),
            extended=(("nvidia.com/gpu", kind.spec.gpus_per_node),),
        )
        for name in ("spark-1", "spark-2")
    }  # fmt: skip
    trains = scene(
        curriculum(phases=(given,)), classes={kind.name: kind}, pools=pools, nodes=nodes
    ).step()
    job, _ = objects(kind, rented)
    for trained, measured in zip(templates(trains.creates[1]), templates(job), strict=True):
        assert _bare(trained) == _bare(measured)
        added = [t["key"] for t in measured["spec"]["tolerations"]][
            len(trained["spec"]["tolerations"]) :
        ]
        assert added == [names.QUARANTINE_TAINT, names.UNSCHEDULABLE_TAINT]


def _bare(template: Object) -> Object:
    """Without labels, storage, reports, what runs in it and how long it may take to end."""
    bare: Object = json.loads(json.dumps(template))
    del bare["metadata"]["labels"]
    spec = bare["spec"]
    del spec["terminationGracePeriodSeconds"], spec["affinity"]["podAntiAffinity"]
    own = (names.QUARANTINE_TAINT, names.UNSCHEDULABLE_TAINT)
    spec["tolerations"] = [t for t in spec["tolerations"] if t["key"] not in own]
    phases_own = ("run", "data", "checkpoints", "progress-token")
    spec["volumes"] = [v for v in spec["volumes"] if v["name"] not in phases_own]
    (container,) = spec["containers"]
    container["command"][-1] = "..."
    container["env"] = [v for v in container["env"] if not v["name"].startswith("KUBEFLOW")]
    container["volumeMounts"] = [
        m for m in container["volumeMounts"] if m["name"] not in phases_own
    ]
    return bare


def test_nothing_of_it_is_an_attempt_and_its_pods_hold_their_accelerators() -> None:
    job, config_map = objects()
    stamped = {"uid": "u", "creationTimestamp": "2026-01-01T12:00:00Z"}
    assert project.job({**job, "metadata": {**job["metadata"], **stamped}}) is None
    for template in templates(job):
        meta = {**template["metadata"], **stamped, "name": "x", "namespace": "research"}
        pod = {"metadata": meta, "spec": {**template["spec"], "nodeName": "spark-1"}}
        assert project.pod(pod) is None
        assert project.occupant(pod) == observe.Occupant(
            "spark-1", (("nvidia.com/gpu", 1), ("rdma/rdma_shared_device_a", 1))
        )
    labels = {names.MANAGED_BY_LABEL: names.DOCTOR, names.MEASUREMENT_LABEL: "curriculum-doctor-1"}
    assert labels == job["metadata"]["labels"] == config_map["metadata"]["labels"]


def test_one_node_alone_has_no_worker_and_no_volume_but_its_own() -> None:
    job, config_map = objects(nodes=("spark-2",))
    assert ["Master"] == list(job["spec"]["pytorchReplicaSpecs"])
    assert "persistentVolumeClaim" not in json.dumps(job)
    assert ("", 1) == (run_of(config_map).checkpoints_dir, run_of(config_map).nodes)
    (template,) = templates(job)
    assert "progress-token" not in json.dumps(template)
    (term,) = template["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert ["spark-2"] == term["matchFields"][0]["values"]


@pytest.mark.parametrize(
    ("preflight", "floors"),
    [
        pytest.param({"floors": {"linkGBps": "14"}}, {"link": 14.0, "loss": 0.3}, id="as asked"),
        pytest.param({"enabled": False}, {"loss": 0.3}, id="where phases measure nothing"),
        pytest.param(None, {}, id="where the class expects nothing"),
    ],
)
def test_the_classes_floors_hold_and_by_hand_it_is_measured_in_any_case(
    preflight: dict[str, Any] | None, floors: dict[str, float]
) -> None:
    kind = accelerator(unifiedMemory=False, preflight=preflight)
    told = run_of(objects(kind)[1]).preflight
    assert told is not None
    assert {**floors, **({"errors": 0.01} if preflight else {})} == told.floors
    assert Check.LOSS in told.floors or not preflight


@pytest.mark.parametrize(
    ("trains", "measured"), [(["FP32", "BF16"], "BF16"), (["FP32"], "FP32"), (["FP8"], "FP8")]
)
def test_it_is_measured_in_what_the_class_trains(trains: list[str], measured: str) -> None:
    assert Precision(measured) == run_of(objects(accelerator(trains=trains))[1]).precision


def test_two_neighbours_of_a_ring_are_measured_as_the_ring_is_cabled() -> None:
    kind = accelerator(fabric={"profile": "gb10-ring", "rdmaResource": "rdma/x"})
    (master, _) = templates(objects(kind)[0])
    environment = {v["name"]: v.get("value") for v in master["spec"]["containers"][0]["env"]}
    assert environment["NCCL_IB_SUBNET_AWARE_ROUTING"] == "1"
    assert "NCCL_ALGO" not in environment


def test_a_fabric_that_is_not_there_is_said() -> None:
    with pytest.raises(ValueError, match='profile "x" does not exist'):
        objects(accelerator(fabric={"profile": "x"}))
