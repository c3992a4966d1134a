"""What becomes of a phase whose attempts end badly: who is blamed, what is tried again."""

from curriculum_api.run import EXIT_CODES
from curriculum_api.wire import Outcome
from curriculum_operator import kinds

from ..memory.script import HANGS, RUNS_ON, Check, Failure, Plan
from .backends import ON_BOTH, scenario
from .documents import SPARKS, curriculum, phase
from .stage import Stage


def fails(replica: str, outcome: Outcome, **fields: object) -> Plan:
    """A plan in which one replica ends with an outcome of its own."""
    failure = Failure(exit_code=EXIT_CODES[outcome], outcome=outcome, message="why", **fields)  # type: ignore[arg-type]
    return Plan(fails={replica: failure})


@scenario(*ON_BOTH)
async def test_a_refused_checkpoint_stops_the_curriculum_and_names_the_file(stage: Stage) -> None:
    stage.script.checks["slm", "pretrain", 1] = Check(broken_file="model-00001.safetensors")
    stage.operator()
    await stage.submit(curriculum())
    await stage.until_ended()
    stalled = stage.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "CheckpointRefused")
    assert "model-00001.safetensors" in stalled["message"]
    assert stage.condition("Succeeded")["status"] == "False"
    await stage.is_calm()
    assert [run.phase for run in stage.witness.started] == ["pretrain"]


@scenario(*ON_BOTH)
async def test_a_worker_that_fails_has_the_whole_gang_replaced(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = fails("worker-0", Outcome.FABRIC_ERROR)
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain")))
    await stage.until_ended()
    assert stage.status()["state"] == "Succeeded"
    assert (stage.phase("pretrain")["attempts"], stage.phase("pretrain")["failures"]) == (2, 1)
    said = [w.body["message"] for w in stage.writes if w.kind is kinds.EVENTS]
    assert [text for text in said if "FabricError: worker-0" in text]
    assert stage.witness.overlaps == []


@scenario()
async def test_an_error_of_the_user_is_final(stage: Stage) -> None:
    stage.script.plans["", "", 0] = fails("worker-0", Outcome.USER_ERROR)
    stage.operator()
    await stage.submit(curriculum())
    await stage.until_ended()
    one = stage.phase("pretrain")
    assert (one["state"], one["outcome"], one["attempts"]) == ("Failed", "UserError", 1)
    await stage.is_calm()


@scenario(*ON_BOTH)
async def test_a_failed_gate_stops_the_curriculum_with_its_figures(stage: Stage) -> None:
    words = "needle 0.62 of at least 0.95; perplexity rose 4.1 % of at most 2 %"
    gate = Failure(
        exit_code=EXIT_CODES[Outcome.GATE_FAILED], outcome=Outcome.GATE_FAILED, message=words
    )
    stage.script.plans["slm", "quality", 1] = Plan(fails={"master-0": gate, "worker-0": gate})
    evaluation = {"source": "held-out", "needles": 5}
    stage.operator()
    phases = (
        phase("pretrain"),
        phase("quality", evaluation=evaluation, gate={"minNeedle": "0.95"}),
        phase("long"),
    )
    await stage.submit(curriculum("slm", *phases))
    await stage.until_ended()
    one = stage.phase("quality")
    assert (one["state"], one["outcome"], one["attempts"]) == ("Failed", "GateFailed", 1)
    assert one["result"]["evaluation"] == [
        {"name": "perplexity", "value": "10.41"},
        {"name": "needle/50", "value": "0.62"},
    ]
    stalled = stage.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "GateFailed")
    assert words in stalled["message"]
    await stage.is_calm()
    assert [run.phase for run in stage.witness.started] == ["pretrain", "quality"]


@scenario()
async def test_want_of_memory_is_tried_again_up_to_max_attempts(stage: Stage) -> None:
    killed = Failure(exit_code=137, reason="OOMKilled")
    stage.script.plans["", "", 0] = Plan(fails={"master-0": killed})
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain", maxAttempts=2)))
    await stage.until_ended()
    one = stage.phase("pretrain")
    assert (one["state"], one["outcome"], one["attempts"]) == ("Failed", "OutOfMemory", 2)


@scenario()
async def test_a_preempted_attempt_does_not_count(stage: Stage) -> None:
    evicted = Failure(exit_code=143, disrupted=True)
    for attempt in (1, 2, 3):
        stage.script.plans["slm", "pretrain", attempt] = Plan(fails={"worker-0": evicted})
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain", maxAttempts=1)))
    await stage.until_ended()
    one = stage.phase("pretrain")
    assert (one["state"], one["attempts"], one["failures"]) == ("Succeeded", 4, 0)


@scenario()
async def test_a_gang_that_reports_no_step_is_hung_and_replaced(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = HANGS
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain", heartbeatSeconds=60)))
    await stage.until_ended()
    one = stage.phase("pretrain")
    assert (one["state"], one["attempts"], one["failures"]) == ("Succeeded", 2, 1)
    said = [w.body["message"] for w in stage.writes if w.kind is kinds.EVENTS]
    assert [text for text in said if "Hung" in text]
    assert stage.witness.overlaps == []


@scenario()
async def test_reported_steps_keep_a_gang_alive(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = Plan(seconds=900, beats=tuple(range(5, 900, 40)))
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain", heartbeatSeconds=60)))
    await stage.until_ended()
    assert stage.phase("pretrain")["attempts"] == 1


@scenario()
async def test_a_restart_of_the_operator_ends_no_healthy_gang(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = Plan(seconds=600, beats=tuple(range(50, 600, 50)))
    first = stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain", heartbeatSeconds=60)))
    await stage.until_state("Running", "pretrain")
    await stage.passes(40)
    await first.kill()
    await stage.passes(300)
    stage.operator()
    await stage.until_ended()
    assert stage.status()["state"] == "Succeeded"
    assert stage.phase("pretrain")["attempts"] == 1


@scenario()
async def test_a_gang_that_is_never_whole_is_queued_again_and_does_not_count(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = Plan(stuck=frozenset({"worker-0"}))
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain", maxAttempts=1)))
    await stage.until_ended()
    one = stage.phase("pretrain")
    assert (one["state"], one["attempts"], one["failures"]) == ("Succeeded", 2, 0)
    said = [w.body["message"] for w in stage.writes if w.kind is kinds.EVENTS]
    assert [text for text in said if "ImagePullBackOff" in text]


@scenario()
async def test_a_pod_that_comes_again_ends_the_attempt(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = RUNS_ON
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain")))
    await stage.until_state("Running", "pretrain")
    await stage.passes(5)
    await stage.remove(kinds.PODS, "slm-pretrain-1-worker-0")
    await stage.until_ended()
    one = stage.phase("pretrain")
    assert (one["state"], one["attempts"], one["failures"]) == ("Succeeded", 2, 0)


@scenario()
async def test_a_dead_node_ends_the_attempt_and_is_waited_for_by_name(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = RUNS_ON
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain")))
    await stage.until_state("Running", "pretrain")
    await stage.passes(10)
    await stage.datacentre.set_ready(SPARKS[1], ready=False)
    await stage.until(
        lambda: (
            f'"{SPARKS[1]}" is not Ready' in stage.phase("pretrain").get("message", "")
            and stage.phase("pretrain")["state"] == "Waiting"
            and "nodes Ready" in stage.phase("pretrain")["message"]
        ),
        "the phase waits for its node",
    )
    assert stage.phase("pretrain")["outcome"] == "NodeLost"
    await stage.datacentre.set_ready(SPARKS[1], ready=True)
    await stage.until_ended()
    assert (stage.status()["state"], stage.phase("pretrain")["attempts"]) == ("Succeeded", 2)
