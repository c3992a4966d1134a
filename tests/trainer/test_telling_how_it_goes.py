"""Progress, results and failures: what is told, how often, and what a failure is called."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from curriculum_api.preflight.figures import Findings
from curriculum_api.run import PhaseResult
from curriculum_api.wire import Outcome
from curriculum_trainer import failures, progress, reports, result
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.progress import Progress
from curriculum_trainer.reports import Report

from .listener import Listener, listening
from .phases import Phases


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as server:
        yield server


@pytest.mark.trainer
def test_a_run_reports_its_stages_and_ends_at_100_percent(
    phases: Phases, listener: Listener
) -> None:
    token = phases.root / "token"
    token.write_text("secret\n")
    ended = phases.launch(
        phases.run(steps=2),
        KUBEFLOW_TRAINER_SERVER_URL=listener.url,
        KUBEFLOW_TRAINER_SERVER_TOKEN=str(token),
    )

    assert ended.outcome == "Succeeded"
    assert {authorization for authorization, _ in listener.posts} == {"Bearer secret"}
    statuses = [body["trainerStatus"] for _, body in listener.posts]
    last = {metric["name"]: metric["value"] for metric in statuses[-1]["metrics"]}
    assert statuses[0]["progressPercentage"] == 0
    assert statuses[-1]["progressPercentage"] == 100
    assert statuses[-1]["estimatedRemainingSeconds"] == 0
    assert {"step", "tokens", "loss", "lossFirst", "tokens_per_second", "step_seconds"} <= set(last)
    assert last["lossFirst"] == str(ended.loss_first)


def test_what_is_attached_goes_along_until_it_was_heard(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.01)
    told = Progress({"KUBEFLOW_TRAINER_SERVER_URL": listener.url}, leads=True)
    told.attach("preflight", {"seconds": 3})
    for step in (1, 2):
        told.tell(percent=10, remaining_seconds=None, metrics={"step": step})
        told.flush()
    told.close()

    assert [body.get("preflight") for _, body in listener.posts] == [{"seconds": 3}, None]


def test_what_nobody_takes_does_not_stand_in_the_way(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.01)
    listener.refuses = "preflight"
    told = Progress({"KUBEFLOW_TRAINER_SERVER_URL": listener.url}, leads=True)
    told.attach("preflight", {"seconds": 3})
    for step in range(progress.ATTACHED_TRIES + 1):
        told.tell(percent=10, remaining_seconds=None, metrics={"step": step})
        told.flush()
    told.close()

    assert ["preflight" in body for _, body in listener.posts] == [True, True, True, False]


def test_nobody_is_waited_for_where_nobody_listens() -> None:
    told = Progress({}, leads=True)
    told.tell(percent=10, remaining_seconds=None, metrics={})
    told.flush()
    told.close()


def test_without_steps_there_is_no_beat(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.01)
    told = Progress({"KUBEFLOW_TRAINER_SERVER_URL": listener.url}, leads=True)
    told.tell(percent=10, remaining_seconds=None, metrics={"step": 1})
    threading.Event().wait(0.5)
    told.close()

    assert len(listener.posts) == 1


def test_many_steps_are_one_post_and_the_last_is_sent(listener: Listener) -> None:
    told = Progress({"KUBEFLOW_TRAINER_SERVER_URL": listener.url}, leads=True)
    for step in range(200):
        told.tell(percent=step / 2, remaining_seconds=1.5, metrics={"step": step})
    told.close()

    assert len(listener.posts) <= 2
    assert listener.posts[-1][1]["trainerStatus"]["metrics"] == [{"name": "step", "value": "199"}]


@pytest.mark.parametrize(
    ("environment", "leads"),
    [
        pytest.param({}, True, id="nobody-listens"),
        pytest.param({"KUBEFLOW_TRAINER_SERVER_URL": "http://127.0.0.1:9"}, True, id="refused"),
        pytest.param({"KUBEFLOW_TRAINER_SERVER_URL": "no url"}, True, id="no-url"),
        pytest.param({"KUBEFLOW_TRAINER_SERVER_URL": "http://127.0.0.1:9"}, False, id="follower"),
    ],
)
def test_nothing_that_goes_wrong_while_telling_is_felt(
    environment: dict[str, str], leads: bool
) -> None:
    told = Progress(environment, leads=leads)
    told.tell(percent=1, remaining_seconds=None, metrics={})
    told.close()


FAILURES = [
    pytest.param(MemoryError(), Outcome.OUT_OF_MEMORY, id="MemoryError"),
    pytest.param(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        Outcome.OUT_OF_MEMORY,
        id="torch-cpu",
    ),
    pytest.param(RuntimeError("CUDA out of memory. Tried"), Outcome.OUT_OF_MEMORY, id="cuda"),
    pytest.param(
        RuntimeError("[pair.cc:538] Connection closed by peer [10.0.0.2]:4242"),
        Outcome.FABRIC_ERROR,
        id="gloo",
    ),
    pytest.param(ConnectionResetError("reset"), Outcome.FABRIC_ERROR, id="reset"),
    pytest.param(ValueError("shape"), Outcome.UNKNOWN, id="bug"),
    pytest.param(PhaseFailure(Outcome.NON_FINITE, "nan"), Outcome.NON_FINITE, id="own"),
]


@pytest.mark.parametrize(("error", "outcome"), FAILURES)
def test_a_failure_has_its_outcome(error: Exception, outcome: Outcome) -> None:
    assert failures.classify(error)[0] is outcome


def test_a_lost_peer_is_named() -> None:
    error = RuntimeError("[pair.cc:538] Connection closed by peer [10.0.0.2]:4242")

    assert "lost a peer (10.0.0.2)" in failures.classify(error)[1]


def _report(phases: Phases, ended_at: float, outcome: Outcome) -> Report:
    ended = result.build(phases.run(), result.Reached(), outcome=outcome, message=outcome)
    return Report(ended_at=ended_at, result=ended)


def test_the_earliest_failure_is_the_cause_but_a_lost_peer_is_not(phases: Phases) -> None:
    ended = [
        _report(phases, 1.0, Outcome.FABRIC_ERROR),
        _report(phases, 3.0, Outcome.UNKNOWN),
        _report(phases, 2.0, Outcome.DATA_ERROR),
        _report(phases, 0.5, Outcome.SUCCEEDED),
    ]

    assert reports.cause(ended).result.outcome is Outcome.DATA_ERROR
    assert reports.cause(ended[:1]).result.outcome is Outcome.FABRIC_ERROR


def test_what_was_measured_of_the_nodes_is_a_cause_and_no_lost_peer(phases: Phases) -> None:
    reached = result.Reached(preflight=Findings(pairs=(), suspects=()))
    built = result.build(phases.run(), reached, outcome=Outcome.FABRIC_ERROR, message="measured")
    ended = [
        _report(phases, 1.0, Outcome.FABRIC_ERROR),
        Report(ended_at=2.0, result=built),
        _report(phases, 3.0, Outcome.UNKNOWN),
    ]
    assert reports.cause(ended).result.message == "measured"


@pytest.mark.parametrize("text", ["é" * 9000, '"\\' * 3000, "short"])
def test_a_termination_message_is_whole_json_within_its_limit(phases: Phases, text: str) -> None:
    suspect = {
        "node": "n" * 60, "check": "link", "value": 0.1, "floor": 0.2, "unit": "GB/s",
        "peer": "p" * 60,
    }  # fmt: skip
    reached = result.Reached(
        step=3,
        loss_last=float("nan"),
        metrics={"a" * 40: float("inf")},
        preflight=Findings.model_validate({"suspects": [suspect] * 8}),
    )
    built = result.build(phases.run(), reached, outcome=Outcome.UNKNOWN, message=text)
    cut = result.cut(built)

    assert len(cut.encode()) <= 4096
    read = PhaseResult.model_validate_json(cut)
    assert (read.outcome, read.step, read.loss_last) == ("Unknown", 3, None)
    assert read.message[:5] == text[:5]
    assert read.preflight == reached.preflight


def test_a_missing_termination_file_is_nobody_s_problem(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TERMINATION_MESSAGE_PATH", str(tmp_path / "none" / "message"))
    built = result.build(phases.run(), result.Reached(), outcome=Outcome.UNKNOWN, message="x")
    result.write_termination_message(built)

    assert list(tmp_path.glob("**/message")) == []
