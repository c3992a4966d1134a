"""SIGTERM saves and ends as preempted; a killed process is told apart from who lost it."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from curriculum_api.run import PhaseResult, PhaseRun
from curriculum_trainer import manifest, result

from .phases import Launched, Phases

pytestmark = pytest.mark.trainer

MANY_STEPS = 1_000_000
PATIENCE_SECONDS = 120


def _endless(phases: Phases, **changes: object) -> PhaseRun:
    return phases.run("endless", steps=MANY_STEPS, checkpoint={"every_steps": 1}, **changes)


def _await_step(run: PhaseRun, step: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        newest = next(manifest.steps(result.phase_folder(run)), (0, None))
        if newest[0] >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} did not come in {PATIENCE_SECONDS} s")


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
