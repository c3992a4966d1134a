"""The rules one by one, and their order."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from curriculum_api.wire import Outcome, State
from curriculum_operator import names

from .builders import NOW, Scene, curriculum, phase, result, scene, verified

RUNNING = scene().started().formed().after(100)
VERIFYING = RUNNING.ended_well().stepped()
FAILED = RUNNING.pod_ends("worker-0", code=2).pod_ends("master-0", code=75).job_fails().stepped()
BACKING_OFF = RUNNING.pod_ends("worker-0", code=1).pod_ends("master-0", code=75).job_fails()
UID = RUNNING.curriculum.uid
DONE = scene(curriculum(phases=(phase(),))).started().formed().ended_well().stepped()
DONE = DONE.verification(message=verified(), succeeded=True).stepped()


def reason(scene: Scene, kind: str) -> tuple[str, str]:
    """Status and reason of a condition after a step."""
    condition = next(c for c in scene.step().status.conditions if c.type == kind)
    return condition.status, condition.reason


RULES = [
    pytest.param(scene(), "start", id="nothing stands in the way"),
    pytest.param(scene(nodes={}), "short", id="no nodes"),
    pytest.param(scene(claims={}), "invalid", id="no volume"),
    pytest.param(scene(claims={}).wanting(suspend=True), "suspended", id="suspended goes first"),
    pytest.param(RUNNING, "running", id="it runs"),
    pytest.param(RUNNING.wanting(suspend=True), "suspended", id="it runs and is not to"),
    pytest.param(
        RUNNING.ended_well().wanting(suspend=True), "ended_well",
        id="a run that ended well is not thrown away",
    ),
    pytest.param(VERIFYING.wanting(suspend=True), "verifying", id="nor its verification"),
    pytest.param(
        BACKING_OFF.stepped(), "backing_off", id="a failure a moment ago"
    ),
    pytest.param(BACKING_OFF.stepped().after(11), "start", id="a failure a while ago"),
    pytest.param(
        RUNNING.having(jobs={}).stepped().after(11), "stragglers", id="pods of the one before"
    ),
    pytest.param(
        RUNNING.having(pods={}).stepped().after(11), "stragglers", id="a job of the one before"
    ),
    pytest.param(
        RUNNING.having(jobs={}).stepped().after(11).pod("master-0", node=""), "stragglers",
        id="a pod without a node",
    ),
    pytest.param(FAILED, "failed", id="for good"),
    pytest.param(FAILED.wanting(suspend=True), "failed", id="for good, whatever is asked"),
    pytest.param(DONE, "done", id="all phases"),
    pytest.param(DONE.wanting(suspend=True), "done", id="all phases, whatever is asked"),
    pytest.param(RUNNING.having(classes={}), "running", id="its class went away meanwhile"),
    pytest.param(
        RUNNING.having(clashes={(UID, "math", 1): "taken"}), "name_taken", id="a taken name"
    ),
    pytest.param(
        VERIFYING.having(clashes={(UID, "math", 1): "taken"}), "name_taken",
        id="a taken name of a verification",
    ),
    pytest.param(
        scene().started(pods=False).having(jobs={}, clashes={(UID, "math", 1): "taken"})
        .wanting(suspend=True), "suspended", id="to suspend is the way out of a taken name",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("scene", "rule"), RULES)
def test_the_first_rule_that_applies_decides(scene: Scene, rule: str) -> None:
    assert rule == scene.step().rule


@pytest.mark.parametrize(("failures", "pause"), [(0, 10), (1, 20), (4, 160), (9, 300)])
def test_each_failure_doubles_the_pause_up_to_its_most(failures: int, pause: int) -> None:
    many = scene(curriculum(phases=(phase(maxAttempts=100),))).started().formed()
    failing = many.pod_ends("worker-0", code=1).pod_ends("master-0", code=75).job_fails()
    after = failing.with_phase(failures=failures).stepped()
    assert (NOW + timedelta(seconds=pause)).strftime("%H:%M:%SZ") in str(after.at_hand.retry_time)
    assert failures + 1 == after.at_hand.failures


FOR_GOOD = [
    pytest.param(2, 3, names.PHASE_FAILED, id="a user's error, at once"),
    pytest.param(3, 3, names.PHASE_FAILED, id="bad data, at once"),
    pytest.param(8, 3, names.GATE_FAILED, id="a gate, at once"),
    pytest.param(1, 1, names.ATTEMPTS_EXHAUSTED, id="no attempt left"),
    pytest.param(4, 1, names.ATTEMPTS_EXHAUSTED, id="a checkpoint not readable, no attempt left"),
]


@pytest.mark.parametrize(("code", "most", "why"), FOR_GOOD)
def test_a_phase_fails_for_good_with_its_reason(code: int, most: int, why: str) -> None:
    running = scene(curriculum(phases=(phase(maxAttempts=most),))).started().formed()
    ended = running.pod_ends("worker-0", code=code).pod_ends("master-0", code=75).job_fails()
    assert ended.step().rule == "phase_failed"
    after = ended.stepped()
    assert after.at_hand.state is State.FAILED
    assert ("True", why) == reason(after, names.STALLED)
    assert ("False", why) == reason(after, names.READY)
    assert ("False", names.CURRICULUM_FAILED) == reason(after, names.SUCCEEDED)


def test_a_verified_checkpoint_opens_the_next_phase() -> None:
    after = VERIFYING.verification(message=verified(), succeeded=True).stepped()
    first = after.curriculum.status.phases[0]
    assert first.state is State.SUCCEEDED
    assert first.checkpoint is not None
    assert first.result is not None
    assert ("5.5", "2.25") == (first.result.loss_first, first.result.loss_last)
    started = after.step()
    assert started.rule == "start"
    config_map = started.creates[0]
    assert '"initFrom": "p/step-4"' in config_map["data"]["run.json"]


FIGURES = {"perplexity": 10.4166666, "needle/50": 0.62}
SHOWN = [("perplexity", "10.4167"), ("needle/50", "0.62")]


def test_the_figures_of_an_evaluation_reach_the_status_of_a_phase_that_succeeded() -> None:
    said = verified(evaluation=FIGURES)
    after = VERIFYING.verification(message=said, succeeded=True).stepped()
    kept = after.curriculum.status.phases[0].result
    assert kept is not None
    assert SHOWN == [(m.name, m.value) for m in kept.evaluation]


def test_a_failed_gate_is_final_and_keeps_the_figures_it_failed_by() -> None:
    words = "needle 0.62 of at least 0.95; perplexity rose 4.1 % of at most 2 %"
    said = result(Outcome.GATE_FAILED, words, evaluation=FIGURES, loss_last=2.25, world_size=2)
    gang = RUNNING.pod_ends("worker-0", code=8, message=said).pod_ends("master-0", code=75)
    after = gang.job_fails().stepped()
    assert (State.FAILED, Outcome.GATE_FAILED) == (after.at_hand.state, after.at_hand.outcome)
    assert words in after.at_hand.message
    assert after.at_hand.result is not None
    assert ("2.25", 2) == (after.at_hand.result.loss_last, after.at_hand.result.world_size)
    assert SHOWN == [(m.name, m.value) for m in after.at_hand.result.evaluation]
    stalled = next(c for c in after.step().status.conditions if c.type == names.STALLED)
    assert ("True", names.GATE_FAILED) == (stalled.status, stalled.reason)
    assert words in stalled.message
    assert after.step().creates == ()


def test_more_figures_than_a_status_holds_are_cut_and_refuse_nothing() -> None:
    many = {f"perplexity/{n}": 1.0 for n in range(100)} | {"x" * 100: 1.0}
    after = VERIFYING.verification(message=verified(evaluation=many), succeeded=True).stepped()
    kept = after.curriculum.status.phases[0].result
    assert kept is not None
    assert 64 == len(kept.evaluation)


def _pod_of_verification(at: Scene, **fields: Any) -> Scene:
    pods = list(at.world.pods[UID])
    pods[-1] = replace(pods[-1], **fields)
    return at.having(pods={UID: tuple(pods)})


VERDICTS = [
    pytest.param(VERIFYING.verification(message=None), "verifying", id="it is under way"),
    pytest.param(
        _pod_of_verification(
            VERIFYING.verification(message=verified(), succeeded=True), finished=False, ended=None
        ), "verifying", id="its job is seen to be finished before its pod",
    ),
    pytest.param(
        VERIFYING.verification(message="", succeeded=True), "verdict_lost", id="no account"
    ),
    pytest.param(
        VERIFYING.verification(message=verified(), succeeded=True), "verified", id="it is good"
    ),
    pytest.param(
        VERIFYING.verification(message=result(Outcome.CHECKPOINT_ERROR, "bad"), failed=True),
        "phase_failed", id="it is bad",
    ),
    pytest.param(
        VERIFYING.verification(message=result(Outcome.CHECKPOINT_ERROR, "bad"), succeeded=True),
        "phase_failed", id="the document beats exit code 0",
    ),
    pytest.param(
        VERIFYING.verification(message=result(), succeeded=True), "phase_failed",
        id="an account without a checkpoint",
    ),
    pytest.param(
        VERIFYING.verification(message=verified().replace('"step":4', '"step":-4'), succeeded=True),
        "phase_failed", id="an account that no status may hold",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("scene", "rule"), VERDICTS)
def test_a_verification_is_judged_by_its_account(scene: Scene, rule: str) -> None:
    step = scene.step()
    assert rule == step.rule
    if rule == "phase_failed":
        assert names.CHECKPOINT_REFUSED in {c.reason for c in step.status.conditions}


def test_a_lost_account_is_asked_for_again() -> None:
    lost = VERIFYING.verification(message="", succeeded=True)
    assert ["verify-1"] == [d.uid for d in lost.step().deletes]
    assert lost.verification(message=None, deleting=True).step().deletes == ()
    assert ["Job"] == [b["kind"] for b in lost.having(verifications={}).step().creates]


def test_a_verification_whose_classes_are_gone_stalls_and_is_made_once_one_is_back() -> None:
    gone = VERIFYING.having(classes={})
    assert gone.step().creates == ()
    assert ("True", names.INVALID_SPEC) == reason(gone, names.STALLED)
    assert ["Job"] == [body["kind"] for body in VERIFYING.step().creates]


def test_a_phase_that_was_not_started_may_be_renamed() -> None:
    waits = scene(nodes={}).stepped()
    spec = curriculum(phases=(phase("new"),)).spec
    renamed = Scene(replace(waits.curriculum, spec=spec), scene().world)
    assert ["new"] == [p.name for p in renamed.step().status.phases]
    assert renamed.step().rule == "start"


def test_to_suspend_ends_the_job_and_counts_for_nothing() -> None:
    step = RUNNING.wanting(suspend=True).step()
    assert [("PyTorchJob", "job-1")] == [(d.kind.kind, d.uid) for d in step.deletes]
    after = RUNNING.wanting(suspend=True).stepped()
    assert (State.SUSPENDED, 0, 1) == (
        after.at_hand.state, after.at_hand.failures, after.at_hand.attempts
    )  # fmt: skip
    assert ("False", names.SUSPENDING) == reason(after, names.SUSPENDED)
    held = after.having(pods={}).job(deleting=True)
    assert ("False", names.SUSPENDING) == reason(held, names.SUSPENDED)
    gone = held.having(jobs={})
    assert ("True", names.RUN_SUSPENDED) == reason(gone, names.SUSPENDED)
    assert gone.wanting(suspend=False).stepped().at_hand.attempts == 2


@pytest.mark.parametrize("over", [FAILED, DONE])
def test_suspend_says_nothing_of_what_is_over(over: Scene) -> None:
    assert ("False", names.NOT_SUSPENDED) == reason(over.wanting(suspend=True), names.SUSPENDED)


LEFT = [
    pytest.param(RUNNING.having(jobs={}), [("master-0", None), ("worker-0", None)], id="orphans"),
    pytest.param(
        RUNNING.job_fails(-60).pod_ends("worker-0", code=1),
        [("master-0", None)],
        id="a pod that a finished job left running",
    ),
    pytest.param(
        RUNNING.having(jobs={}).pod("master-0", deleting=True),
        [("worker-0", None)],
        id="one is on its way already",
    ),
    pytest.param(
        RUNNING.node("a", ready=False, ready_changed=NOW),
        [("master-0", 0)],
        id="a dead node's pod, by force",
    ),
]


@pytest.mark.parametrize(("scene", "deleted"), LEFT)
def test_pods_that_nothing_else_would_end_are_ended(
    scene: Scene, deleted: list[tuple[str, int | None]]
) -> None:
    step = scene.step()
    pods = [d for d in step.deletes if d.kind.kind == "Pod"]
    told = [(d.name.removeprefix("math-"), d.grace_seconds) for d in pods]
    assert deleted == told


def test_messages_are_one_line_of_what_the_api_carries() -> None:
    long = RUNNING.pod_ends("master-0", code=2, message=result(Outcome.USER_ERROR, "x\n" * 1500))
    step = long.pod_ends("worker-0", code=143).job_fails().step()
    messages = [p.message for p in step.status.phases]
    messages += [c.message for c in step.status.conditions] + [e.message for e in step.events]
    assert max(map(len, messages)) == 1024
    assert not [m for m in messages if "\n" in m]


def test_nothing_is_done_for_a_curriculum_that_is_being_deleted() -> None:
    step = Scene(replace(RUNNING.curriculum, deleting=True), RUNNING.world).step()
    assert (step.rule, step.creates, step.deletes) == ("deleting", (), ())
