"""Admission: whole gangs only, in one order, on nodes that can take them, and why not in words."""

from dataclasses import replace
from typing import Any

import pytest

from curriculum_api.wire import State
from curriculum_operator import admit, names, observe

from .builders import GPU, Scene, accelerator, curriculum, node, phase, pool, scene, world

WAITING = State.WAITING


def waiting(name: str, *, age: float = 60, nodes: int = 2, **spec: Any) -> observe.Curriculum:
    """A curriculum that waits for nodes."""
    made = curriculum(name, phases=(phase(nodes=nodes),), age=age, **spec)
    return Scene(made, world()).with_phase(state=WAITING).curriculum


def answer(who: observe.Curriculum, *others: observe.Curriculum, **fields: Any) -> object:
    """What the walk says of `who`: its nodes, or why it has none."""
    curricula = {c.uid: c for c in (who, *others)}
    said = admit.walk(who, world(curricula=curricula, **fields))
    return said.nodes if isinstance(said, admit.Placement) else said.message


SHORT = 'accelerator class "gb10-sm121": 0 of 2 nodes have 1 free nvidia.com/gpu'


@pytest.mark.parametrize(
    ("who", "other", "said"),
    [
        pytest.param(waiting("x"), waiting("y", priority=11), SHORT, id="priority"),
        pytest.param(waiting("x", priority=11, age=1), waiting("y"), ("a", "b"), id="its own"),
        pytest.param(waiting("x"), waiting("y", age=61), SHORT, id="age"),
        pytest.param(waiting("y"), waiting("x"), SHORT, id="uid"),
        pytest.param(waiting("x"), waiting("y"), ("a", "b"), id="its own uid"),
    ],
)
def test_the_order_is_priority_age_and_uid(
    who: observe.Curriculum, other: observe.Curriculum, said: object
) -> None:
    assert said == answer(who, other)


def _with(scene_: Scene, **fields: Any) -> observe.Curriculum:
    return scene_.with_phase(state=WAITING, **fields).curriculum


FIRST = Scene(curriculum("first", age=999, priority=99), world())
STALLED = FIRST.having(classes={}).stepped().with_phase(state=WAITING).curriculum


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(_with(FIRST, retry_time="2026-01-01T13:00:00Z"), id="one that backs off"),
        pytest.param(_with(FIRST, claim_time="2026-01-01T11:00:00Z"), id="one that was started"),
        pytest.param(_with(FIRST.wanting(suspend=True)), id="one that is suspended"),
        pytest.param(_with(FIRST.wanting(queue_name="q")), id="one that a queue admits"),
        pytest.param(replace(_with(FIRST), deleting=True), id="one that is being deleted"),
        pytest.param(STALLED, id="one that is stalled"),
        pytest.param(FIRST.with_phase(state=State.PENDING).curriculum, id="one not looked at yet"),
    ],
)
def test_a_curriculum_that_cannot_start_keeps_no_nodes_from_others(
    other: observe.Curriculum,
) -> None:
    assert answer(waiting("x"), other) == ("a", "b")


def test_a_larger_gang_that_does_not_fit_does_not_hold_up_those_behind_it() -> None:
    assert answer(waiting("x"), waiting("big", priority=99, nodes=3)) == ("a", "b")


def test_a_start_that_no_watch_has_shown_holds_its_nodes() -> None:
    assumed = observe.Assumed("other", "math", 1, None, ("a", "b"), GPU, 1)
    assert answer(waiting("x"), assumed={("other", "math", 1): assumed}) == SHORT


def test_live_jobs_their_leftover_pods_and_strangers_hold_nodes() -> None:
    running = scene(curriculum("other")).started()
    uid = running.curriculum.uid
    assert answer(waiting("x"), jobs=running.world.jobs) == SHORT
    assert answer(waiting("x"), jobs=running.world.jobs, pods=running.world.pods) == SHORT
    assert answer(waiting("x"), pods=running.world.pods) == SHORT
    over = running.job_fails().world.jobs
    leaving = running.pod("master-0", deleting=True).pod_ends("worker-0", code=1)
    message = 'accelerator class "gb10-sm121": 1 of 2 nodes have 1 free nvidia.com/gpu'
    assert answer(waiting("x"), jobs=over, pods={uid: leaving.world.pods[uid]}) == message
    stranger = {("other", "pod"): observe.Occupant("b", ((GPU, 1),))}
    assert answer(waiting("x"), occupants=stranger) == message


def test_a_job_that_a_queue_admitted_holds_what_its_pods_hold() -> None:
    queued = scene(curriculum("other")).started().job(nodes=())
    assert answer(waiting("x"), jobs=queued.world.jobs, pods=queued.world.pods) == SHORT


TAINT = observe.Taint("example.com/own", "x", "NoSchedule")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        pytest.param({"ready": False}, '"b" is not Ready', id="not Ready"),
        pytest.param({"unschedulable": True}, '"b" is cordoned', id="cordoned"),
        pytest.param({"taints": (TAINT,)}, '"b" has a taint that is not tolerated', id="tainted"),
        pytest.param(
            {"labels": {names.CLASS_LABEL: "gb10-sm121", names.ARCH_LABEL: "amd64"}},
            '"b" is amd64, not arm64', id="another CPU",
        ),
    ],
)  # fmt: skip
def test_a_node_that_cannot_take_a_pod_is_named_with_the_reason(
    fields: dict[str, Any], why: str
) -> None:
    nodes = {"a": node("a"), "b": node("b", **fields)}
    message = f'accelerator class "gb10-sm121": 1 of 2 nodes Ready ({why})'
    assert message == answer(waiting("x"), nodes=nodes)


@pytest.mark.parametrize(
    ("toleration", "holds"),
    [
        pytest.param({"key": TAINT.key, "operator": "Exists"}, True, id="exists"),
        pytest.param({"key": TAINT.key, "value": "x"}, True, id="equal"),
        pytest.param({"key": TAINT.key, "value": "y"}, False, id="another value"),
        pytest.param({"key": "other", "operator": "Exists"}, False, id="another key"),
        pytest.param({"operator": "Exists"}, True, id="everything"),
        pytest.param(
            {"key": TAINT.key, "operator": "Exists", "effect": "NoExecute"}, False, id="effect"
        ),
    ],
)
def test_taints_are_tolerated_as_the_scheduler_does(
    toleration: dict[str, str], holds: bool
) -> None:
    tolerations = accelerator(tolerations=[toleration]).spec.tolerations
    assert holds is admit.tolerated((TAINT,), tolerations)
    assert admit.tolerated((replace(TAINT, effect="PreferNoSchedule"),), ())


def test_the_fullest_nodes_are_taken_first() -> None:
    nodes = {"a": node("a", gpus=8), "b": node("b", gpus=1), "c": node("c", gpus=2)}
    assert answer(waiting("x"), nodes=nodes) == ("b", "c")


RENTED = phase(acceleratorClass="b200-sm100", pool="b200-cloud", nodes=1, gpusPerNode=4)


def test_a_pool_yields_no_more_nodes_than_its_maximum() -> None:
    who = curriculum("x", phases=(RENTED,))
    nodes = {n: node(n, "b200-sm100", gpus=8) for n in ("r", "s")}
    held = observe.Assumed("other", "math", 1, "b200-cloud", ("r",), GPU, 8)
    given: dict[str, Any] = {"nodes": nodes, "assumed": {("other", "math", 1): held}}
    assert answer(who, **given) == ("s",)
    given["pools"] = {"b200-cloud": pool(maxNodes=1)}
    message = (
        'accelerator class "b200-sm100" in pool "b200-cloud": 1 more nodes are needed and 1 of the'
        " pool's 1 are in use"
    )
    assert message == answer(who, **given)
    # Half of a node that is already paid for costs no further one.
    half = replace(held, gpus_per_node=4)
    given["assumed"] = {("other", "math", 1): half}
    assert answer(who, **given) == ("r",)


def test_a_pool_is_told_from_other_nodes_of_its_class_by_its_selector() -> None:
    nodes = {"r": node("r", "b200-sm100", labels={names.CLASS_LABEL: "b200-sm100"})}
    message = 'accelerator class "b200-sm100" in pool "b200-cloud": 0 of 1 nodes Ready'
    assert message == answer(curriculum("x", phases=(RENTED,)), nodes=nodes)
