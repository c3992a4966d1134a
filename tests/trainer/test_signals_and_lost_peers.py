"""SIGTERM saves and ends as preempted; a killed process is told apart from who lost it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from curriculum_api.run import EXIT_CODES, PhaseResult, PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import launch, leaving, manifest, processes, result
from curriculum_trainer.sharding import DataParallel
from curriculum_trainer.stop import Stop
from curriculum_trainer.tensorfile import TensorFile

from .arming import arm, before
from .phases import Launched, Phases

pytestmark = pytest.mark.trainer

MANY_STEPS = 1_000_000
PATIENCE_SECONDS = 120

DEADLINE_SECONDS = 15
"""Long enough to load and train a few steps on a busy machine."""

SLOW_SECONDS = 2

STEP_SECONDS = 0.1

SLEEP = f"import time\ntime.sleep({PATIENCE_SECONDS})\n"


def _endless(phases: Phases, **changes: object) -> PhaseRun:
    return phases.run("endless", steps=MANY_STEPS, checkpoint={"every_steps": 1}, **changes)


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"it did not come about in {PATIENCE_SECONDS} s")


def _await_step(run: PhaseRun, step: int) -> None:
    folder = result.phase_folder(run)
    _await(lambda: any(number >= step for number, _ in manifest.steps(folder)))


def _sleep() -> int:
    time.sleep(PATIENCE_SECONDS)
    return 0


def _two_pods(phases: Phases, run: PhaseRun) -> list[Launched]:
    """As the training-operator starts them: its RANK and WORLD_SIZE count pods."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return [
        phases.start(
            run,
            f"pod-{number}",
            PET_NODE_RANK=str(number),
            RANK=str(number),
            WORLD_SIZE="2",
            PET_NNODES="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            GLOO_SOCKET_IFNAME="lo",
        )
        for number in range(2)
    ]


def test_the_entry_point_saves_on_sigterm_and_ends_with_75(phases: Phases) -> None:
    run = _endless(phases)
    message = phases.root / "message"
    process = subprocess.Popen(
        [sys.executable, "-m", "curriculum_trainer", "--run", str(phases.file(run))],
        env={**os.environ, "TERMINATION_MESSAGE_PATH": str(message)},
    )
    _await_step(run, 2)
    process.send_signal(signal.SIGTERM)

    assert process.wait(PATIENCE_SECONDS) == 75
    told = PhaseResult.model_validate_json(message.read_text())
    assert told.outcome == "Preempted"
    assert told.checkpoint is not None
    assert told.checkpoint.step == told.step >= 2
    assert manifest.verify(phases.folder(run, told.step)).tokens == told.tokens
    beside = result.phase_folder(run) / "result.json"
    assert PhaseResult.model_validate_json(beside.read_text()) == told


def test_a_sigterm_ends_the_entry_point_while_it_is_still_importing(tmp_path: Path) -> None:
    """A container's first process would not hear it: there the kernel drops what is unhandled."""
    slow, importing = tmp_path / "pydantic.py", tmp_path / "importing"
    slow.write_text(f"import pathlib, time\npathlib.Path({str(importing)!r}).touch()\n" + SLEEP)
    process = subprocess.Popen(
        [sys.executable, "-m", "curriculum_trainer"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    _await(importing.exists)
    process.send_signal(signal.SIGTERM)

    assert process.wait(PATIENCE_SECONDS) == EXIT_CODES[Outcome.PREEMPTED] == leaving.TEMPORARY


@pytest.mark.parametrize("forks", [True, False])
def test_a_sigterm_while_a_process_is_started_ends_that_process(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, forks: bool
) -> None:
    monkeypatch.setenv("TERMINATION_MESSAGE_PATH", str(phases.root / "message"))

    def start(_run: PhaseRun, _path: Path, environment: Mapping[str, str]) -> processes.Process:
        os.kill(os.getpid(), signal.SIGTERM)
        if forks:
            return processes.forked(_sleep, environment)
        return subprocess.Popen([sys.executable, "-c", SLEEP])

    run = _endless(phases)
    ended = launch.launch(run, phases.file(run), {}, start=start, keep=False)

    assert ended.outcome is Outcome.PREEMPTED
    assert ended.message == "SIGTERM before the first step: nothing to save"


def test_a_sigterm_that_reaches_one_pod_ends_all_at_one_step(phases: Phases) -> None:
    run = _endless(phases, nodes=2)
    pods = _two_pods(phases, run)
    _await_step(run, 2)
    os.kill(pods[1].pid, signal.SIGTERM)
    (first_code, first), (second_code, second) = [pod.ended() for pod in pods]

    assert (first_code, second_code) == (75, 75)
    assert first.outcome == second.outcome == "Preempted"
    assert first.step == second.step
    manifest.verify(phases.folder(run, first.step))


def test_a_sigterm_during_a_write_waits_for_it_and_saves_once_more(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def action(_run: PhaseRun) -> None:
        asked = threading.Event()
        before(Stop, "_ask", asked.set)
        before(TensorFile, "finish", lambda: asked.wait(PATIENCE_SECONDS))

    arm(monkeypatch, action)
    run = phases.run("endless", steps=MANY_STEPS, checkpoint={"every_steps": 2, "keep_last": 9})
    pod = phases.start(run, "pod")
    _await(lambda: (result.phase_folder(run) / ".tmp-1-2" / manifest.MODEL_FILE).exists())
    os.kill(pod.pid, signal.SIGTERM)
    code, ended = pod.ended()

    assert (code, ended.outcome) == (75, "Preempted")
    assert ended.checkpoint is not None
    assert ended.checkpoint.step == ended.step > 2
    assert f"SIGTERM: saved at step {ended.step}" in ended.message
    for step in (2, ended.step):
        manifest.verify(phases.folder(run, step))


def test_a_save_that_outlasts_the_grace_time_costs_only_itself(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def action(run: PhaseRun) -> None:
        never, first = threading.Event(), phases.folder(run, 1)
        before(TensorFile, "finish", lambda: first.exists() and never.wait(PATIENCE_SECONDS))

    arm(monkeypatch, action)
    run = _endless(phases, grace_seconds=4)
    pod = phases.start(run, "pod")
    _await_step(run, 1)
    os.kill(pod.pid, signal.SIGTERM)
    code, ended = pod.ended()

    assert (code, ended.outcome) == (75, "Preempted")
    assert "did not finish its step and save within 1 s of SIGTERM" in ended.message
    assert ended.checkpoint is not None
    assert ended.checkpoint.step == 1
    manifest.verify(phases.folder(run, 1))


@pytest.mark.parametrize("processes", [1, 2])
def test_the_deadline_is_met_with_a_complete_checkpoint(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    # until then it need not take both processors from the tests beside it
    arm(monkeypatch, lambda _run: before(DataParallel, "step", lambda: time.sleep(STEP_SECONDS)))
    run = phases.run(
        "endless", steps=MANY_STEPS, deadline_seconds=DEADLINE_SECONDS, processes_per_node=processes
    )
    began = time.time()
    code, ended = phases.start(run, "pod").ended()

    assert (code, ended.outcome) == (75, "Preempted")
    assert f"its deadline of {DEADLINE_SECONDS} s leaves no time" in ended.message
    assert f"saved at step {ended.step}" in ended.message
    assert ended.checkpoint is not None
    assert ended.checkpoint.step == ended.step > 1
    path = phases.folder(run, ended.step) / manifest.MANIFEST_FILE
    assert path.stat().st_mtime <= began + DEADLINE_SECONDS
    manifest.verify(path.parent)


def test_time_is_kept_for_the_save_that_was_measured(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def action(_run: PhaseRun) -> None:
        before(TensorFile, "finish", lambda: time.sleep(SLOW_SECONDS))

    arm(monkeypatch, action)
    limit = DEADLINE_SECONDS + 4 * SLOW_SECONDS
    run = phases.run(
        "endless", steps=MANY_STEPS, deadline_seconds=limit, checkpoint={"every_steps": 1}
    )
    began = time.time()
    code, ended = phases.start(run, "pod").ended()

    assert (code, ended.outcome) == (75, "Preempted")
    assert ended.checkpoint is not None
    assert ended.checkpoint.step == ended.step > 1
    path = phases.folder(run, ended.step) / manifest.MANIFEST_FILE
    assert path.stat().st_mtime <= began + limit


def test_a_killed_worker_is_the_cause_and_its_peer_lost_the_fabric(phases: Phases) -> None:
    run = _endless(phases, nodes=2)
    pods = _two_pods(phases, run)
    _await_step(run, 2)
    (worker,) = pods[1].workers()
    killed_at = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    (peer_code, peer), (code, own) = [pod.ended() for pod in pods]

    assert time.monotonic() - killed_at < 30
    assert (code, own.outcome) == (1, "Unknown")
    assert "killed by signal 9" in own.message
    assert (peer_code, peer.outcome) == (6, "FabricError")
    assert "lost a peer" in peer.message
    assert peer.checkpoint is not None


def test_within_one_pod_the_killed_process_is_the_cause(phases: Phases) -> None:
    run = _endless(phases, processes_per_node=2)
    pod = phases.start(run, "pod")
    _await_step(run, 2)
    os.kill(pod.workers()[1], signal.SIGKILL)
    code, ended = pod.ended()

    assert (code, ended.outcome) == (1, "Unknown")
    assert ended.message == "process 1 was killed by signal 9"
    assert ended.step >= 2
