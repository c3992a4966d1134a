"""`curriculum doctor --measure` on a cluster: pods as a phase's, what they say, and
nothing left."""

import asyncio
from typing import Any

import pytest

from curriculum_api.preflight.figures import Check, Measured, NodeFigures, PairFigures, Proof
from curriculum_api.run import PhaseResult
from curriculum_api.wire import Outcome, Precision
from curriculum_cli import doctor_measure
from curriculum_operator import cluster, kinds, names
from curriculum_operator.build import proof
from curriculum_operator.cluster import Kind, Raw

from ..memory.script import NEVER, Failure, Plan
from . import documents
from .backends import ON_BOTH, scenario
from .documents import NAMESPACE, SPARK, SPARKS, curriculum, phase
from .stage import Stage

BY_HAND = (names.DOCTOR, proof.PHASE, 1)

FOUND = Measured(
    precision=Precision.BF16,
    nodes=tuple(NodeFigures(node=name, figures={Check.MATMUL: 91.0}) for name in SPARKS),
    pairs=(PairFigures(nodes=SPARKS, figures={Check.LINK: 20.0}),),
)


async def measure(stage: Stage, *nodes: str, say: Any = lambda _: None, **options: Any) -> Proof:
    """As a user does, once the nodes have been recognised."""
    wanted = set(nodes) - {"nowhere"}
    await stage.until(lambda: all(_class(stage, name) for name in wanted), "nodes are recognised")
    return await doctor_measure.on_cluster(
        stage.admin,
        nodes,
        **({"namespace": NAMESPACE, "profiles": {}, "say": say} | options),
    )


def _class(stage: Stage, name: str) -> str:
    raw = stage.datacentre.view.find(kinds.NODES, name) or {"metadata": {}}
    labels: dict[str, str] = raw["metadata"].get("labels") or {}
    return labels.get(names.CLASS_LABEL, "")


async def left(stage: Stage) -> list[str]:
    """Jobs and runs of measurements that are there now."""
    kinds_made: tuple[Kind, ...] = (kinds.PYTORCHJOBS, kinds.CONFIGMAPS)
    found: list[Raw] = []
    for kind in kinds_made:
        found += (await stage.admin.list(kind, label_selector=names.MEASUREMENT_LABEL))[0]
    return [raw["metadata"]["name"] for raw in found]


@scenario()
async def test_a_pair_is_measured_and_nothing_is_left(stage: Stage) -> None:
    stage.script.plans[BY_HAND] = Plan(measured=FOUND)
    stage.operator()
    said: list[str] = []
    found = await measure(stage, *SPARKS, say=said.append)

    assert found == Proof(measured=FOUND)
    assert await left(stage) == []
    assert said[0].startswith('waiting for the training-operator to make pod "curriculum-doctor-')
    assert said[-1] == "waiting for spark-1, spark-2 to be measured"
    assert len(said) == len(set(said)), "nothing is said twice"
    await stage.until(lambda: not stage.datacentre.view.all(kinds.PODS), "its pods are gone")


@scenario()
async def test_one_node_is_measured_in_quarantine_too(stage: Stage) -> None:
    stage.script.plans[BY_HAND] = Plan(measured=FOUND)
    stage.operator()
    await stage.until(lambda: _class(stage, "spark-2"), "it is recognised")
    taint = {"key": names.QUARANTINE_TAINT, "value": "link", "effect": "NoSchedule"}
    await stage.edit("spark-2", lambda raw: raw["spec"].update(taints=[taint]), kinds.NODES)
    assert await measure(stage, "spark-2") == Proof(measured=FOUND)


@scenario()
async def test_a_rented_node_is_measured_in_its_pools_way(stage: Stage) -> None:
    """Its taint is one that only its pool's pods tolerate."""
    stage.script.plans[BY_HAND] = Plan(measured=FOUND)
    stage.operator()
    assert await measure(stage, documents.RENTED) == Proof(measured=FOUND)


@scenario(*ON_BOTH)
async def test_what_is_measured_is_taken_and_no_attempt(stage: Stage) -> None:
    """The phase waits for the measurement's pods, and starts once they are gone; then the
    measurement waits for the phase."""
    failure = Failure(after=60.0, exit_code=6, outcome=Outcome.FABRIC_ERROR, message="no RDMA")
    stage.script.plans[BY_HAND] = Plan(seconds=NEVER, fails={"worker-0": failure})
    stage.script.plans["slm", "pretrain", 1] = Plan(seconds=600.0)
    stage.operator()
    asked = stage.group.create_task(_failing(measure(stage, *SPARKS)))
    await stage.until(lambda: _running(stage) == 2, "both pods measure")
    await stage.submit(curriculum("slm", phase("pretrain")))
    await stage.until_message("Ready", "nvidia.com/gpu")
    assert stage.live_jobs() == []

    assert "on spark-2 ended with FabricError: no RDMA" in await asked or (
        "on spark-1 ended with FabricError: no RDMA" in await asked
    )
    assert await left(stage) == []
    await stage.until(lambda: stage.phase("pretrain").get("state") == "Running", "it is free")
    told = await _failing(measure(stage, "spark-1"))
    assert told.startswith(
        'node "spark-1" has 0 of 1 nvidia.com/gpu left, pod "research/slm-pretrain-1-'
    )
    assert await left(stage) == []


@scenario()
async def test_a_pod_that_ends_badly_has_the_last_word(stage: Stage) -> None:
    failure = Failure(exit_code=1, message="python3: No module named curriculum_trainer.prove")
    stage.script.plans[BY_HAND] = Plan(fails={"master-0": failure})
    stage.operator()
    told = await _failing(measure(stage, "spark-1"))
    assert told.endswith(
        '-master-0" on spark-1 ended with exit code 1: python3: No module named '
        "curriculum_trainer.prove"
    )
    assert await left(stage) == []


@scenario()
async def test_a_pod_whose_log_is_not_to_be_had_has_its_exit_code(stage: Stage) -> None:
    failure = Failure(exit_code=137, reason="OOMKilled", message="nobody reads it")
    stage.script.plans[BY_HAND] = Plan(fails={"master-0": failure})
    stage.operator()

    async def log(*_: object, **__: object) -> str:
        raise cluster.Unavailable("500: no route to node")

    stage.admin.log = log  # type: ignore[method-assign]
    told = await _failing(measure(stage, "spark-1"))
    assert told.endswith("on spark-1 ended with exit code 137: OOMKilled")
    assert await left(stage) == []


@scenario()
async def test_what_one_may_not_do_is_said_in_the_clusters_words(stage: Stage) -> None:
    stage.script.plans[BY_HAND] = Plan(measured=FOUND)
    stage.operator()

    async def log(*_: object, **__: object) -> str:
        raise cluster.Refused(403, 'User "ann" cannot get resource "pods/log"')

    stage.admin.log = log  # type: ignore[method-assign]
    told = await _failing(measure(stage, "spark-1"))
    assert told == 'the cluster refuses it: User "ann" cannot get resource "pods/log"'
    assert await left(stage) == []


@scenario()
async def test_a_trainer_of_another_version_is_told_from_a_measurement(stage: Stage) -> None:
    stage.script.plans[BY_HAND] = Plan()
    stage.operator()
    told = await _failing(measure(stage, "spark-1"))
    assert 'its last line is no measurement: "gloo says hello": use a trainer of this' in told


@scenario(*ON_BOTH)
async def test_pods_that_never_start_say_why(stage: Stage) -> None:
    stage.script.plans[BY_HAND] = Plan(seconds=NEVER, stuck=frozenset({"worker-0"}))
    stage.operator()
    wait = 100 * stage.tempo.beat_seconds
    told = await _failing(measure(stage, *SPARKS, wait_seconds=wait))
    assert told.startswith(f"nothing was measured: {wait:.0f} s went by in waiting for pod")
    assert "which does not start: ImagePullBackOff: no such image" in told
    assert await left(stage) == []


@scenario()
async def test_pods_that_no_node_takes_are_waited_for_and_removed(stage: Stage) -> None:
    other = {"key": "example.com/rack", "value": "3", "effect": "NoSchedule"}
    stage.operator()
    await stage.until(lambda: _class(stage, "spark-1"), "it is recognised")
    await stage.edit("spark-1", lambda raw: raw["spec"].update(taints=[other]), kinds.NODES)
    told = await _failing(measure(stage, "spark-1", wait_seconds=30))
    assert "30 s went by in waiting for pod" in told
    assert told.endswith("to be scheduled: see what stands in its way, and ask again")
    assert await left(stage) == []


@scenario()
async def test_a_measurement_that_does_not_end_is_ended(stage: Stage) -> None:
    stage.script.plans[BY_HAND] = Plan(seconds=NEVER)
    stage.operator()
    told = await _failing(measure(stage, "spark-1"))
    assert "240 s went by in waiting for spark-1 to be measured" in told
    assert await left(stage) == []


@scenario()
async def test_who_is_interrupted_leaves_nothing(stage: Stage) -> None:
    stage.script.plans[BY_HAND] = Plan(seconds=NEVER)
    stage.operator()
    asked = asyncio.create_task(measure(stage, *SPARKS))
    await stage.until(lambda: _running(stage) == 2, "both pods measure")
    assert len(await left(stage)) == 2
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await left(stage) == []


@scenario()
async def test_one_that_is_killed_leaves_what_ends_by_itself(stage: Stage) -> None:
    """The job has its deadline and its time to live, and the run goes with the job."""
    stage.script.plans[BY_HAND] = Plan(seconds=NEVER)
    stage.operator()
    asked = asyncio.create_task(measure(stage, "spark-1"))
    await stage.until(lambda: _running(stage) == 1, "it measures")
    (job,), _ = await stage.admin.list(kinds.PYTORCHJOBS, label_selector=names.MEASUREMENT_LABEL)
    policy = job["spec"]["runPolicy"]
    assert (840, 300) == (policy["activeDeadlineSeconds"], policy["ttlSecondsAfterFinished"])
    (run,), _ = await stage.admin.list(kinds.CONFIGMAPS, label_selector=names.MEASUREMENT_LABEL)
    assert [job["metadata"]["uid"]] == [o["uid"] for o in run["metadata"]["ownerReferences"]]
    asked.cancel()


@scenario()
async def test_what_cannot_be_measured_is_said_before_anything_is_made(stage: Stage) -> None:
    stage.operator()
    refusals = {
        ("nowhere",): 'node "nowhere" does not exist',
        ("spark-1", "spark-1"): 'cannot measure "spark-1,spark-1": name each node once',
        (): 'cannot measure "": name each node once',
        ("spark-1", documents.RENTED): f'node "spark-1" is of class "{SPARK}" and node "b200-1" '
        'of class "b200-sm100": name nodes of one class',
    }
    for nodes, words in refusals.items():
        assert (await _failing(measure(stage, *nodes))).startswith(words)
    await stage.datacentre.set_ready("spark-2", ready=False)
    assert "is not Ready" in await _failing(measure(stage, "spark-2"))
    told = await _failing(measure(stage, "spark-1", namespace="nowhere"))
    assert told.startswith('namespace "nowhere" takes no measurement: ')
    assert await left(stage) == []


@scenario()
async def test_a_node_of_no_class_and_one_without_devices_are_named(stage: Stage) -> None:
    told = await _failing(_without_waiting(stage, "spark-1"))
    assert told == (
        'node "spark-1" has no accelerator class (nobody has recognised it): add a class that '
        "matches it, or label it curriculum.dev/accelerator-class=NAME"
    )
    stage.operator()
    await stage.until(lambda: _class(stage, "spark-1"), "it is recognised")
    raw = await stage.admin.get(kinds.NODES, "spark-1")
    raw["status"]["allocatable"].pop("nvidia.com/gpu")
    await stage.admin.replace_status(kinds.NODES, raw)
    told = await _failing(measure(stage, "spark-1"))
    assert told.startswith('node "spark-1" offers 0 of the 1 nvidia.com/gpu that its class has')


@scenario()
async def test_a_cluster_that_is_silent_for_a_moment_is_asked_again(stage: Stage) -> None:
    stage.script.plans[BY_HAND] = Plan(measured=FOUND)
    stage.operator()
    await stage.until(lambda: _class(stage, "spark-1"), "it is recognised")
    said: list[str] = []
    there = Interrupted(stage.admin)
    found = await doctor_measure.on_cluster(
        there,
        ["spark-1"],
        namespace=NAMESPACE,
        profiles={},
        say=said.append,
    )
    assert found == Proof(measured=FOUND)
    assert "waiting for the cluster to answer: GET: connection reset" in said


@scenario()
async def test_of_two_pods_that_ended_badly_the_first_one_tells_why(stage: Stage) -> None:
    stage.operator()
    await stage.until(lambda: all(_class(stage, name) for name in SPARKS), "they are recognised")
    with pytest.raises(ValueError, match='worker-0" on spark-2 ended with FabricError: no RDMA'):
        await doctor_measure.on_cluster(
            Over(stage.admin), SPARKS, namespace=NAMESPACE, profiles={}, say=lambda _: None
        )


class Over:
    """A cluster on which both pods have ended: the worker first, its master for want of it."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Raw:
        if kind is not kinds.PODS:
            found: Raw = await self._real.get(kind, name, namespace)
            return found
        first = name.endswith("worker-0")
        told = PhaseResult(
            outcome=Outcome.FABRIC_ERROR,
            message="no RDMA" if first else "lost a peer",
            phase=proof.PHASE,
            attempt=1,
        )
        ended = {
            "exitCode": 6,
            "finishedAt": f"2026-01-01T12:00:0{1 if first else 3}Z",
            "message": told.model_dump_json(by_alias=True),
        }
        return {
            "metadata": {"name": name},
            "spec": {"nodeName": "spark-2" if first else "spark-1"},
            "status": {
                "phase": "Failed",
                "containerStatuses": [{"name": "pytorch", "state": {"terminated": ended}}],
            },
        }


class Interrupted:
    """A cluster of whose answers about pods the third to the fifth are lost."""

    def __init__(self, real: Any) -> None:
        self._real, self._asked = real, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Raw:
        self._asked += kind is kinds.PODS
        if kind is kinds.PODS and 3 <= self._asked <= 5:
            raise cluster.Unavailable("GET: connection\nreset")
        found: Raw = await self._real.get(kind, name, namespace)
        return found


async def _without_waiting(stage: Stage, *nodes: str) -> Proof:
    return await doctor_measure.on_cluster(
        stage.admin, nodes, namespace=NAMESPACE, profiles={}, say=lambda _: None
    )


async def _failing(asked: Any) -> str:
    with pytest.raises(ValueError) as caught:
        await asked
    told = str(caught.value)
    assert "\n" not in told
    return told


def _running(stage: Stage) -> int:
    return sum(
        names.MEASUREMENT_LABEL in pod["metadata"]["labels"]
        and (pod.get("status") or {}).get("phase") == "Running"
        for pod in stage.datacentre.view.all(kinds.PODS)
    )
