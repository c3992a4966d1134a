"""The objects of an attempt, and the reading of what an API server returns."""

import json
from typing import Any

import pytest

from curriculum_api.run import PhaseRun, RunFabric
from curriculum_api.wire import Transport
from curriculum_operator import names, observe, project
from curriculum_operator.build import run, verification

from .builders import accelerator, curriculum, phase, pool, scene

STARTED = scene().step()
CONFIG_MAP, JOB = STARTED.creates
LABELS = {
    "curriculum.dev/curriculum": "slm",
    "curriculum.dev/curriculum-uid": "uid-slm",
    "curriculum.dev/phase": "math",
    "curriculum.dev/attempt": "1",
    "curriculum.dev/role": "train",
}
RENTED = phase("long", acceleratorClass="b200-sm100", pool="b200-cloud", nodes=1)


def pod_spec(body: dict[str, Any], replica: str = "Master") -> dict[str, Any]:
    spec: dict[str, Any] = body["spec"]["pytorchReplicaSpecs"][replica]["template"]["spec"]
    return spec


def test_a_job_has_one_master_and_the_other_nodes_as_workers() -> None:
    assert ("kubeflow.org/v1", "PyTorchJob") == (JOB["apiVersion"], JOB["kind"])
    assert {"cleanPodPolicy": "Running"} == JOB["spec"]["runPolicy"]
    assert JOB["spec"]["nprocPerNode"] == "1"
    replicas = JOB["spec"]["pytorchReplicaSpecs"]
    assert [("Master", 1), ("Worker", 1)] == [(k, r["replicas"]) for k, r in replicas.items()]
    assert all(r["restartPolicy"] == "Never" for r in replicas.values())


def test_a_job_of_one_node_has_no_worker_section() -> None:
    job = scene(curriculum(phases=(phase(nodes=1),))).step().creates[1]
    assert ["Master"] == list(job["spec"]["pytorchReplicaSpecs"])


def test_children_say_whose_they_are_and_nothing_of_the_curriculum_is_copied() -> None:
    for body in STARTED.creates:
        assert ("slm-math-1", "research") == (body["metadata"]["name"], "research")
        assert LABELS == body["metadata"]["labels"]
        (owner,) = body["metadata"]["ownerReferences"]
        assert ("uid-slm", True) == (owner["uid"], owner["controller"])
    assert LABELS == JOB["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["metadata"]["labels"]


def test_pods_are_pinned_to_the_nodes_that_were_picked_one_on_each() -> None:
    affinity = pod_spec(JOB)["affinity"]
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = affinity["nodeAffinity"][required]["nodeSelectorTerms"]
    assert [["a"], ["b"]] == [term["matchFields"][0]["values"] for term in terms]
    assert [["gb10-sm121"], ["arm64"]] == [e["values"] for e in terms[0]["matchExpressions"]]
    (apart,) = affinity["podAntiAffinity"][required]
    assert {k: v for k, v in LABELS.items() if k != "curriculum.dev/curriculum"} == apart[
        "labelSelector"
    ]["matchLabels"]
    assert JOB["metadata"]["annotations"][names.NODES_ANNOTATION] == "a,b"


def test_pods_are_restricted_and_hold_a_token_for_reports_alone() -> None:
    spec = pod_spec(JOB, "Worker")
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert {"type": "RuntimeDefault"} == spec["securityContext"]["seccompProfile"]
    (container,) = spec["containers"]
    assert {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    } == container["securityContext"]
    (token,) = [v for v in spec["volumes"] if v["name"] == "progress-token"]
    (source,) = token["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == names.PROGRESS_AUDIENCE
    assert {"nvidia.com/gpu": "1"} == container["resources"]["limits"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in spec["volumes"]} == mounted


def test_rdma_brings_its_resource_and_the_right_to_lock_memory() -> None:
    kind = accelerator(
        fabric={"profile": "gb10-switch", "rdmaResource": "rdma/x", "hostNetwork": True}
    )
    job = scene(classes={"gb10-sm121": kind}).step().creates[1]
    spec = pod_spec(job)
    (container,) = spec["containers"]
    assert container["resources"]["limits"]["rdma/x"] == "1"
    assert ["IPC_LOCK"] == container["securityContext"]["capabilities"]["add"]
    assert (True, "ClusterFirstWithHostNet") == (spec["hostNetwork"], spec["dnsPolicy"])


@pytest.mark.parametrize(
    ("fabric", "transport"),
    [
        ({"profile": "roce"}, Transport.SOCKETS),
        ({"profile": "roce", "rdmaResource": "rdma/x"}, Transport.RDMA),
        ({"profile": "b200-eks"}, Transport.RDMA),
    ],
)
def test_the_trainer_is_told_what_its_fabric_promises(
    fabric: dict[str, str], transport: Transport
) -> None:
    made = scene(classes={"gb10-sm121": accelerator(fabric=fabric)}).step().creates[0]
    told = PhaseRun.model_validate_json(made["data"]["run.json"]).fabric
    assert RunFabric(profile=fabric["profile"], transport=transport) == told


def test_a_rented_phase_tolerates_and_selects_its_pool() -> None:
    spec = pod_spec(scene(curriculum(phases=(RENTED,))).step().creates[1])
    assert {"example.com/pool": "b200"} == spec["nodeSelector"]
    assert {"nvidia.com/gpu", "example.com/rented"} == {t["key"] for t in spec["tolerations"]}
    assert {"nvidia.com/gpu": "8"} == spec["containers"][0]["resources"]["limits"]


def test_a_queue_gets_the_job_with_its_name_and_no_nodes() -> None:
    job = scene(curriculum(queueName="q")).step().creates[1]
    assert job["metadata"]["labels"][names.QUEUE_LABEL] == "q"
    affinity = pod_spec(job)["affinity"]["nodeAffinity"]
    assert "matchFields" not in json.dumps(affinity)


def test_later_layers_of_the_environment_win_and_the_reports_address_always_does() -> None:
    given = phase(
        env=[{"name": "NCCL_DEBUG", "value": "INFO"}],
        podTemplate={"env": [{"name": "HOME", "value": "/x"}]},
    )
    built = scene(curriculum(phases=(given,))).step()
    assert built.rule == "invalid"  # HOME is reserved
    del given["podTemplate"]
    container = pod_spec(scene(curriculum(phases=(given,))).step().creates[1])["containers"][0]
    environment = {v["name"]: v["value"] for v in container["env"] if "value" in v}
    assert ("INFO", "/tmp") == (environment["NCCL_DEBUG"], environment["HOME"])
    assert environment["KUBEFLOW_TRAINER_SERVER_URL"].endswith(
        "/namespaces/research/trainingcurricula/slm/phases/math/attempts/1/status"
    )


def test_the_run_in_the_config_map_reads_back_as_it_was() -> None:
    assert CONFIG_MAP["immutable"] is True
    given = scene()
    kind = given.world.classes["gb10-sm121"].spec
    sockets = RunFabric(profile="gb10-switch", transport=Transport.SOCKETS)
    made = run.phase_run(
        given.curriculum, given.curriculum.spec.phases[0], kind, attempt=1, fabric=sockets
    )
    assert made == PhaseRun.model_validate_json(CONFIG_MAP["data"]["run.json"])
    assert made.checkpoint_path == "research/slm-uid-slm/math"
    assert (None, 512) == (made.init_from, made.global_batch_tokens)


@pytest.mark.parametrize(
    ("phases", "kind", "tolerated"),
    [
        pytest.param((phase(), RENTED), "gb10-sm121", False, id="on the owned class before"),
        pytest.param((RENTED,), "b200-sm100", True, id="on the pool where all is rented"),
    ],
)
def test_a_checkpoint_is_verified_where_nothing_is_rented_if_it_can_be(
    phases: tuple[dict[str, Any], ...], kind: str, tolerated: bool
) -> None:
    given = scene(curriculum(phases=phases))
    last = given.curriculum.spec.phases[-1]
    job = verification.verification(given.curriculum, last, given.world, attempt=3)
    assert job["metadata"]["name"] == "slm-long-3-verify"
    spec = job["spec"]["template"]["spec"]
    assert f'"{kind}"' in json.dumps(spec["affinity"])
    assert ("example.com/rented" in {t["key"] for t in spec["tolerations"]}) is tolerated
    assert ("nodeSelector" in spec) is tolerated
    assert "resources" not in spec["containers"][0]
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert [2, 3, 4] == rules[0]["onExitCodes"]["values"]
    assert {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]} == rules[1]


VOLUMES = ("corpus", "checkpoints")
X = {"name": "x"}

PROBLEMS = [
    pytest.param(phase(precision="NVFP4"), {}, "cannot train NVFP4", id="precision"),
    pytest.param(phase(acceleratorClass="x"), {}, '"x" does not exist; known: b2', id="class"),
    pytest.param(phase(gpusPerNode=2), {}, "more than the 1 of class", id="gpus"),
    pytest.param(
        phase(sequenceParallel=4, strategy="ZeRO3"), {}, "does not divide the 2", id="processes"
    ),
    pytest.param(phase(globalBatchTokens=768), {}, "is not a multiple of 512", id="batch"),
    pytest.param(phase(env=[{"name": "RANK", "value": "1"}]), {}, '"RANK" is reserved', id="env"),
    pytest.param(phase(pool="x"), {}, 'pool "x" does not exist; known: b200-cloud', id="pool"),
    pytest.param(phase(pool="b200-cloud"), {}, 'not "gb10-sm121"', id="the pool's class"),
    pytest.param(
        RENTED | {"nodes": 3}, {"pools": {"b200-cloud": pool(maxNodes=2)}}, "more than the 2 of",
        id="the pool's size",
    ),
    pytest.param(phase(), {"claims": {}}, 'claim "checkpoints" does not exist', id="no volume"),
    pytest.param(
        phase(),
        {"claims": {("research", c): observe.Claim("research", c, ("RWO",)) for c in VOLUMES}},
        'claim "checkpoints" is RWO', id="a volume for one node",
    ),
    pytest.param(
        phase(podTemplate={"volumes": [{"name": "data"}]}), {}, 'volume "data" is there twice',
        id="the operator's volume",
    ),
    pytest.param(
        phase(podTemplate={"volumes": [X], "mounts": [X | {"mountPath": "/tmp"}]}),
        {}, 'mountPath "/tmp" is there twice', id="the operator's path",
    ),
    pytest.param(
        phase(podTemplate={"mounts": [{"name": "x", "mountPath": "/x"}]}), {},
        'volume "x", which does not exist', id="a mount of nothing",
    ),
    pytest.param(
        phase(), {"classes": {"gb10-sm121": accelerator(fabric={"profile": "x"})}},
        'profile "x" does not exist', id="the class's fabric",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("given", "fields", "message"), PROBLEMS)
def test_what_cannot_be_is_said_before_anything_starts(
    given: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    for phases in ((given,), (phase("first"), given)):
        step = scene(curriculum(phases=phases), **fields).step()
        assert (step.rule, step.creates) == ("invalid", ())
        stalled = next(c for c in step.status.conditions if c.type == names.STALLED)
        assert stalled.reason == names.INVALID_SPEC
        assert message in stalled.message


RAW_POD: dict[str, Any] = {
    "metadata": {
        "name": "slm-math-1-master-0", "namespace": "research", "uid": "u",
        "creationTimestamp": "2026-01-01T12:00:00Z",
        "labels": {
            **LABELS, "training.kubeflow.org/replica-type": "master",
            "training.kubeflow.org/replica-index": "0",
        },
    },
    "spec": {"containers": [{"name": "pytorch", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
}  # fmt: skip


def read(**status: Any) -> observe.Pod:
    pod = project.pod({**RAW_POD, "status": status})
    assert pod is not None
    return pod


def test_a_pod_is_read_from_its_first_moment_on() -> None:
    pod = project.pod(RAW_POD)
    assert pod is not None
    assert ("master-0", "", False, False) == (pod.replica, pod.node, pod.running, pod.finished)
    assert (("nvidia.com/gpu", 1),) == pod.extended


def test_a_pod_that_nobody_can_place_says_so() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3",
    }
    assert read(conditions=[condition]).trouble == "Unschedulable: 0/3"


@pytest.mark.parametrize(
    ("why", "trouble"), [("ContainerCreating", ""), ("ErrImagePull", "ErrImagePull")]
)
def test_a_container_that_waits_says_why_where_it_matters(why: str, trouble: str) -> None:
    state = {"name": "pytorch", "state": {"waiting": {"reason": why}}}
    assert read(containerStatuses=[state]).trouble == trouble


def test_a_failed_init_container_ends_a_pod_that_never_ran() -> None:
    init = {"name": "init", "state": {"terminated": {"exitCode": 1}}}
    pod = read(phase="Failed", initContainerStatuses=[init])
    assert (True, None) == (pod.finished, pod.ended)
    assert pod.trouble == "init container init ended with exit code 1"


def test_a_container_whose_end_the_kubelet_lost_has_no_end() -> None:
    lost = {"exitCode": 137, "reason": "ContainerStatusUnknown", "finishedAt": None}
    pod = read(
        phase="Failed", containerStatuses=[{"name": "pytorch", "state": {"terminated": lost}}]
    )
    assert (True, None) == (pod.finished, pod.ended)


def test_a_job_has_no_status_at_first_and_ends_at_its_conditions_time() -> None:
    raw = {"metadata": {**JOB["metadata"], "uid": "u", "creationTimestamp": "2026-01-01T12:00:00Z"}}
    job = project.job(raw)
    assert job is not None
    assert (False, ("a", "b"), 1, None) == (job.finished, job.nodes, job.gpus_per_node, job.ended)
    failed = {"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T13:00:00Z"}
    gone = {"type": "Running", "status": "False"}
    job = project.job({**raw, "status": {"conditions": [gone, failed]}})
    assert job is not None
    assert (True, False, 13) == (job.failed, job.succeeded, job.ended and job.ended.hour)


def test_what_is_not_ours_is_no_child_and_occupies() -> None:
    raw = {
        "metadata": {"name": "x", "namespace": "y"},
        "spec": {**RAW_POD["spec"], "nodeName": "a"},
    }
    assert project.pod(raw) is None
    assert project.occupant(raw) == observe.Occupant("a", (("nvidia.com/gpu", 1),))
    assert project.occupant({**raw, "status": {"phase": "Succeeded"}}) is None
    assert project.occupant({**RAW_POD, "spec": raw["spec"]}) is None
