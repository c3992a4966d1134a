"""The status: conditions that do not flap, figures for people, money that adds up."""

from decimal import Decimal

import pytest

from curriculum_api.v1alpha1.status import CurriculumStatus
from curriculum_api.wire import Outcome, State
from curriculum_operator import cost, names
from curriculum_operator.status import Difference, difference, duration

from .builders import Scene, curriculum, phase, pool, result, scene

RENTED = phase("long", acceleratorClass="b200-sm100", pool="b200-cloud", nodes=1)
RUNNING = scene().started().formed().after(60)
ON_RENT = scene(curriculum(phases=(RENTED,))).started().formed()


def conditions(status: CurriculumStatus) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in status.conditions}


def test_a_curriculum_that_waits_is_ready_and_says_what_for() -> None:
    assert {
        names.READY: ("True", names.WAITING_FOR_NODES),
        names.RECONCILING: ("False", names.OBSERVED),
        names.STALLED: ("False", names.PROGRESSING),
        names.SUSPENDED: ("False", names.NOT_SUSPENDED),
        names.FABRIC_HEALTHY: ("Unknown", names.FABRIC_UNPROVEN),
        names.SUCCEEDED: ("Unknown", names.IN_PROGRESS),
    } == conditions(scene(nodes={}).step().status)


def test_a_transition_time_changes_with_the_status_alone() -> None:
    waiting = scene(nodes={}).stepped()
    later = RUNNING.stepped().curriculum.status
    started = {c.type: c.last_transition_time for c in waiting.curriculum.status.conditions}
    assert started == {c.type: c.last_transition_time for c in later.conditions}
    stalled = waiting.after(60).having(claims={}).step().status
    changed = {c.type for c in stalled.conditions if c.last_transition_time.endswith("12:01:00Z")}
    assert {names.READY, names.STALLED} == changed


@pytest.mark.parametrize(
    "at",
    [scene(nodes={}), scene(claims={}), RUNNING, RUNNING.wanting(suspend=True), RUNNING.after(900)],
)
def test_looking_again_later_changes_nothing_that_is_real(at: Scene) -> None:
    settled = at.stepped().having(jobs={}, pods={}) if at.curriculum.spec.suspend else at.stepped()
    settled = settled.stepped()
    again = settled.after(1).step().status
    assert difference(settled.curriculum.status, again) is not Difference.REAL


SEEN = "IB over rocep1s0f1, roceP2p1s0f1 (RoCE), 21.9 GB/s"
CAUSE = "spark-1 fell to sockets over eth0: the pod has no /dev/infiniband: see that the node"
PROVEN = RUNNING.beat(fabric=SEEN)
FELL = RUNNING.pod_ends("worker-0", code=6, message=result(Outcome.FABRIC_ERROR, CAUSE))


def fabric(status: CurriculumStatus) -> tuple[str, str, str]:
    (found,) = [c for c in status.conditions if c.type == names.FABRIC_HEALTHY]
    return found.status, found.reason, found.message


def test_the_fabric_is_healthy_with_what_was_seen() -> None:
    told = ("True", names.FABRIC_PROVEN, f'Phase "math": {SEEN}')
    assert told == fabric(PROVEN.step().status)
    # another operator takes over, and has heard nothing yet
    assert told == fabric(PROVEN.stepped().having(beats={}).step().status)
    # and between two phases, until the next one's processes meet
    assert told == fabric(PROVEN.stepped().ended_well().stepped().step().status)


def test_the_fabric_is_not_healthy_with_the_cause_until_processes_have_met_again() -> None:
    ended = FELL.job_fails().after(60)
    status, reason, message = fabric(ended.step().status)
    assert ("False", names.FABRIC_FAILED) == (status, reason)
    assert CAUSE in message
    # nodes are waited for meanwhile, which the phase's own message says
    waiting = ended.stepped().having(pods={}, jobs={}, nodes={}).after(3600)
    assert names.WAITING_FOR_NODES in str(conditions(waiting.step().status)[names.READY])
    assert (status, reason, message) == fabric(waiting.step().status)
    again = waiting.having(nodes=RUNNING.world.nodes).started()
    assert (status, reason, message) == fabric(again.step().status)
    assert "True" == fabric(again.beat(fabric=SEEN).step().status)[0]


def test_an_attempt_that_ends_otherwise_says_nothing_of_the_fabric() -> None:
    ended = PROVEN.stepped().pod_ends("worker-0", code=5, message=result(Outcome.OUT_OF_MEMORY))
    assert "True" == fabric(ended.job_fails().after(60).step().status)[0]


def test_progress_alone_is_told_from_a_real_difference() -> None:
    old = RUNNING.stepped().curriculum.status
    beaten = RUNNING.beat(loss="2.5").step().status
    assert difference(old, RUNNING.step().status) is Difference.NONE
    assert difference(old, beaten) is Difference.PROGRESS
    assert difference(old, RUNNING.ended_well().step().status) is Difference.REAL


def test_the_printed_fields_say_where_it_is() -> None:
    status = RUNNING.beat().step().status
    assert ("math 1/2", "40%", "1m30s", "$0.00") == (
        status.phase, status.progress, status.eta, status.cost
    )  # fmt: skip
    assert status.state is State.RUNNING


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (12, "12s"), (60, "1m"), (270, "4m30s"), (3600, "1h"), (3605, "1h"),
     (7500, "2h5m"), (86400, "1d"), (273600, "3d4h")],
)  # fmt: skip
def test_a_duration_is_told_in_its_two_largest_units(seconds: int, text: str) -> None:
    assert text == duration(seconds)


def test_a_rented_node_costs_whole_from_its_claim_to_its_end() -> None:
    hour = ON_RENT.after(3600)
    assert "$35.92" == hour.step().status.cost  # 8 accelerators at 4.49
    ended = hour.having(jobs={}).with_phase(job_ref=None).stepped()
    assert ("35.9200", 28800) == (ended.at_hand.usd, ended.at_hand.gpu_seconds)
    assert "$35.92" == ended.after(3600).step().status.cost


def test_money_is_owed_for_a_class_that_was_deleted_meanwhile() -> None:
    hour = ON_RENT.job(gpus_per_node=8).having(classes={}).after(3600)
    assert "$35.92" == hour.step().status.cost


def test_cents_add_up_in_decimals() -> None:
    total = "0"
    for _ in range(10):
        total = cost.add(total, Decimal("0.1"))
    assert total == "1.0000"
    third = ON_RENT.having(pools={"b200-cloud": pool(pricePerGPUHour="1e-1")})
    spec = third.curriculum.spec.phases[0]
    assert Decimal("0.1") == cost.usd(third.observed, spec, 3600)
