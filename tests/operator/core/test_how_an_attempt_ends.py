"""How an attempt ended: the first cause counts, and only what came from outside is forgiven."""

from datetime import timedelta
from typing import Any

import pytest

from curriculum_api.wire import Outcome, State

from .builders import NOW, Scene, curriculum, phase, result, scene

RUNNING = scene().started().formed().after(100)
SINGLE = scene(curriculum(phases=(phase(nodes=1, maxAttempts=2),))).started().formed().after(100)
WORKER, MASTER = "worker-0", "master-0"


def both_end(worker: int, master: int, *, later: float = 0, **master_fields: Any) -> Scene:
    """The worker ended, then the master, and the job failed."""
    ended = RUNNING.pod_ends(WORKER, code=worker).pod_ends(
        MASTER, code=master, at=later, **master_fields
    )
    return ended.job_fails()


ENDS = [
    pytest.param(both_end(2, 75), Outcome.USER_ERROR, 1, id="stopped master in the same second"),
    pytest.param(both_end(2, 75, later=-2), Outcome.USER_ERROR, 1, id="its clock is 2 s behind"),
    pytest.param(both_end(3, 6, later=1), Outcome.DATA_ERROR, 1, id="the earlier of two failures"),
    pytest.param(both_end(6, 3, later=-1), Outcome.DATA_ERROR, 1, id="the earlier is the master's"),
    pytest.param(both_end(7, 143), Outcome.NON_FINITE, 1, id="a master that SIGTERM ended"),
    pytest.param(
        both_end(6, 75, later=-1, disrupted=True), Outcome.PREEMPTED, 0, id="a drained master"
    ),
    pytest.param(
        both_end(6, 1, later=9, disrupted=True), Outcome.PREEMPTED, 0,
        id="a lost connection while another pod is evicted",
    ),
    pytest.param(both_end(75, 75), Outcome.PREEMPTED, 1, id="stopped, and nobody asked"),
    pytest.param(
        both_end(75, 75).job(deleting=True), Outcome.PREEMPTED, 0, id="stopped by a deletion"
    ),
    pytest.param(
        RUNNING.pod_ends(WORKER, code=137, reason="OOMKilled")
        .pod_ends(MASTER, code=75).job_fails(),
        Outcome.OUT_OF_MEMORY, 1, id="killed for want of memory",
    ),
    pytest.param(
        RUNNING.pod_ends(MASTER, code=1, message=result(Outcome.NON_FINITE, "loss is NaN"))
        .pod_ends(WORKER, code=143).job_fails(),
        Outcome.NON_FINITE, 1, id="the document beats the exit code",
    ),
    pytest.param(
        RUNNING.pod_ends(MASTER, code=0, message=result(Outcome.CHECKPOINT_ERROR, "no space"))
        .pod_ends(WORKER, code=0).job_succeeds(),
        Outcome.CHECKPOINT_ERROR, 1, id="the document beats exit code 0",
    ),
    pytest.param(
        RUNNING.pod_ends(WORKER, code=6).job_fails().node("a", ready=False, ready_changed=NOW)
        .after(46),
        Outcome.NODE_LOST, 1, id="a lost connection to a node that went down",
    ),
    pytest.param(
        RUNNING.pod(WORKER, finished=True, running=False).pod(MASTER, finished=True, running=False)
        .job_fails(),
        Outcome.UNKNOWN, 1, id="pods that ended without a word",
    ),
    pytest.param(
        RUNNING.node("b", ready=False, ready_changed=NOW).after(0),
        Outcome.NODE_LOST, 1, id="a node that is not Ready for the grace time",
    ),
    pytest.param(
        RUNNING.having(nodes={"a": RUNNING.world.nodes["a"]}), Outcome.NODE_LOST, 1,
        id="a node that is gone",
    ),
    pytest.param(
        RUNNING.pod(WORKER, uid="other", created=NOW + timedelta(seconds=90)),
        Outcome.PREEMPTED, 0, id="a pod that came again",
    ),
    pytest.param(RUNNING.without_pod(WORKER), Outcome.PREEMPTED, 0, id="a pod that was deleted"),
    pytest.param(RUNNING.pod(WORKER, deleting=True), Outcome.PREEMPTED, 0, id="a pod on its way"),
    pytest.param(
        RUNNING.stepped().having(jobs={}), Outcome.PREEMPTED, 0, id="a job that was deleted"
    ),
    pytest.param(RUNNING.after(501), Outcome.HUNG, 1, id="no step for heartbeatSeconds"),
    pytest.param(
        RUNNING.node("b", ready=False, ready_changed=NOW + timedelta(seconds=590)).after(501),
        Outcome.NODE_LOST, 1, id="no step, and a node has just gone down",
    ),
    pytest.param(
        scene(curriculum(phases=(phase(activeDeadlineSeconds=90),))).started().formed().after(91),
        Outcome.UNKNOWN, 1, id="activeDeadlineSeconds",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("scene", "outcome", "failures"), ENDS)
def test_an_attempt_ends_for_the_reason_that_came_first(
    scene: Scene, outcome: Outcome, failures: int
) -> None:
    after = scene.stepped().at_hand
    assert outcome == after.outcome
    assert failures == after.failures
    assert after.end_time is not None


LIVES = [
    pytest.param(RUNNING, id="it runs"),
    pytest.param(RUNNING.after(499), id="a step is not overdue"),
    pytest.param(RUNNING.after(900).beat(at=-5), id="a step was reported"),
    pytest.param(
        RUNNING.beat(at=0, step_seconds="120").after(1199), id="ten slow steps are not overdue"
    ),
    pytest.param(RUNNING.beat(step_seconds="inf").after(599), id="a figure that is none"),
    pytest.param(RUNNING.beat(step_seconds="1e300").after(863999), id="a figure beyond sense"),
    pytest.param(
        RUNNING.after(500).having(listening_since=NOW + timedelta(seconds=500)).after(499),
        id="this operator has not listened long enough",
    ),
    pytest.param(
        RUNNING.node("b", ready=False, ready_changed=NOW + timedelta(seconds=80)),
        id="a node is away for less than the grace time",
    ),
    pytest.param(RUNNING.pod_ends(WORKER, code=0), id="a worker ended well before the master"),
]


@pytest.mark.parametrize("scene", LIVES)
def test_an_attempt_lives(scene: Scene) -> None:
    step = scene.step()
    assert step.rule == "running"
    assert step.deletes == ()


SETTLING = [
    pytest.param(RUNNING.pod_ends(WORKER, code=2), id="the job has not failed yet"),
    pytest.param(RUNNING.pod_ends(WORKER, code=2).job_fails(), id="the master still runs"),
    pytest.param(
        RUNNING.pod_ends(WORKER, code=2).job_fails().pod(MASTER, deleting=True),
        id="the master is being stopped",
    ),
    pytest.param(RUNNING.job_fails(), id="the job's failure is seen before its pods'"),
    pytest.param(SINGLE.pod_ends(MASTER, code=0), id="the job has not succeeded yet"),
]


@pytest.mark.parametrize("scene", SETTLING)
def test_a_first_end_is_not_judged_before_the_rest_is_known(scene: Scene) -> None:
    for suspend in (False, True):
        step = scene.wanting(suspend=suspend).step()
        assert step.rule == "settling"
        assert step.deletes == ()
    assert scene.after(46).step().rule in ("attempt_ended", "phase_failed", "ended_well")


def test_an_end_well_goes_to_verification_with_its_job_left_in_place() -> None:
    step = RUNNING.ended_well().step()
    assert step.rule == "ended_well"
    assert step.status.state is State.VERIFYING
    assert step.deletes == ()
    assert [body["kind"] for body in step.creates] == ["Job"]


def test_a_master_that_ended_well_counts_whatever_a_worker_did() -> None:
    ended = RUNNING.pod_ends(MASTER, code=0).pod_ends(WORKER, code=1).job_succeeds()
    assert ended.step().rule == "ended_well"


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        pytest.param(
            scene().started(pods=False).after(601), "0 of 2 pods run", id="no pods in time"
        ),
        pytest.param(
            scene().started().pod(WORKER, running=False, trouble="ImagePullBackOff: x").after(601),
            "worker-0: ImagePullBackOff: x", id="an image that cannot be pulled",
        ),
        pytest.param(
            scene().started().pod(WORKER, running=False, finished=True, trouble="init failed"),
            "worker-0: init failed", id="an init container that failed",
        ),
        pytest.param(
            scene().started(pods=False).having(jobs={}).after(11), "its job was never created",
                id="spent",
        ),
        pytest.param(
            scene().started(pods=False).node("b", ready=False).after(1), 'node "b" is not Ready',
            id="a node that went down before",
        ),
    ],
)  # fmt: skip
def test_a_gang_that_was_not_formed_is_queued_again_and_does_not_count(
    scene: Scene, message: str
) -> None:
    after = scene.stepped()
    status = after.at_hand
    assert (status.state, status.failures) == (State.WAITING, 0)
    assert f'attempt 1 of phase "math" was not formed: {message}' == status.message
    assert (
        after.after(11).having(jobs={}, pods={}).node("b", ready=True).stepped().at_hand.attempts
        == 2
    )


def test_a_start_that_is_not_seen_yet_is_not_spent() -> None:
    claimed = scene().step()
    assert claimed.assume is not None
    assumed = {(claimed.assume.curriculum_uid, "math", 1): claimed.assume}
    assert scene().stepped().having(assumed=assumed).step().rule == "forming"


def test_a_job_waits_in_its_queue_as_long_as_it_takes_and_holds_no_money() -> None:
    queued = scene(curriculum(queueName="research")).started(pods=False).after(86400)
    step = queued.step()
    assert step.rule == "forming"
    assert step.status.cost == "$0.00"


def test_a_first_step_may_take_two_minutes_however_soon_a_phase_is_hung() -> None:
    here = scene(curriculum(phases=(phase(heartbeatSeconds=20),))).started().formed()
    assert here.after(119).step().rule == "running"
    assert here.after(121).stepped().at_hand.outcome is Outcome.HUNG
    stepped = here.beat(at=30, step_seconds="1.0")
    assert stepped.after(49).step().rule == "running"
    assert stepped.after(51).stepped().at_hand.outcome is Outcome.HUNG


def test_the_heartbeat_message_says_what_may_block_it() -> None:
    message = RUNNING.after(501).stepped().at_hand.message
    assert "no finished step was reported for 600 s" in message
    assert "http://curriculum-operator:8090" in message


def test_a_second_pod_is_told_from_the_first_by_its_age_on_the_servers_clock() -> None:
    # This clock is behind the server's: the gang is formed when its newest pod was made.
    ahead = scene().started().pod(WORKER, created=NOW + timedelta(seconds=30))
    formed = ahead.stepped()
    assert formed.after(1).step().rule == "running"
