"""One phase on real kubelets that is suspended, killed, stopped and cut off, and its checkpoint
damaged at the end."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.demo.follow import Snapshot
from tests.e2e.watching import Site, has_stepped, phase, steps_done

NAMESPACE = "faults"
NAME = "faults"
FILE = Path(__file__).with_name("faults.yaml")
SECONDS = 300
TRAIN_SECONDS = 900
SPARKS = ("spark-1", "spark-2")

LINK = 30
"""Mbit/s that the Sparks' cables carry while there are faults: a step's gradients of 4 MB take a
second, so that the phase is as long on a fast machine as on a slow one, and costs few steps."""


@pytest.fixture
def slowed(place: Site) -> Iterator[Site]:
    """Both Sparks, with slow cables; also after a failure the next test has fast ones."""
    _limit_links(place, LINK)
    yield place
    _limit_links(place, None)


@pytest.mark.e2e
@pytest.mark.timeout(30 * 60)
def test_a_phase_outlives_its_faults_and_a_damaged_checkpoint_stops_it(slowed: Site) -> None:
    """Each fault ends the attempt and the next one goes on from the newest checkpoint."""
    place = slowed
    folder = place.namespace(NAMESPACE)
    place.apply(NAMESPACE, FILE)
    _trains(place, attempt=1, step=6)

    _set_suspend(place, True)
    held = place.wait(NAMESPACE, NAME, "suspended", _suspended, SECONDS)
    assert all(pod.attempt == 1 for pod in held.pods)
    _set_suspend(place, False)
    resumed = _trains(place, attempt=2, step=7)
    assert resumed >= 7, "the second attempt goes on where the first one stopped"

    os.kill(place.worker_process(NAMESPACE, f"{NAME}-pretrain-2-worker-0"), signal.SIGKILL)
    _trains(place, attempt=3, step=8)
    assert phase(place.look(NAMESPACE, NAME), "pretrain")["failures"] == 1

    stopped = place.worker_process(NAMESPACE, f"{NAME}-pretrain-3-worker-0")
    os.kill(stopped, signal.SIGSTOP)
    place.wait(NAMESPACE, NAME, "counts as hung", _ended_as("Hung"), SECONDS)
    os.kill(stopped, signal.SIGCONT)
    _trains(place, attempt=4, step=9)

    place.cluster.stop_kubelet("spark-2")
    short = place.wait(NAMESPACE, NAME, "waits for the node", _waits_for_spark_2, SECONDS)
    assert phase(short, "pretrain")["outcome"] == "NodeLost"
    place.cluster.start_kubelet("spark-2")
    _trains(place, attempt=5, step=10)

    for node in SPARKS:
        place.cluster.kubectl("cordon", node)
    _limit_links(place, None)  # nothing is left but the end
    place.wait(NAMESPACE, NAME, "is being verified", _in_state("Verifying"), TRAIN_SECONDS)
    damaged = sorted(folder.glob("**/step-*/model*.safetensors"))[-1]
    _flip_a_bit(damaged)
    for node in SPARKS:
        place.cluster.kubectl("uncordon", node)
    refused = place.wait(NAMESPACE, NAME, "is refused", _in_state("Failed"), SECONDS)
    stalled = refused.condition("Stalled")
    assert stalled["status"] == "True"
    assert stalled["reason"] == "CheckpointRefused"
    assert damaged.name in stalled["message"]
    assert place.jobs(NAMESPACE)[-1] == f"{NAME}-pretrain-5"


def _trains(place: Site, *, attempt: int, step: int) -> int:
    """Wait until this attempt has finished that step, and one itself; the step that it reports."""
    what = f"attempt {attempt} finishes step {step}"

    def done(seen: Snapshot) -> bool:
        status = phase(seen, "pretrain")
        right = status.get("attempts") == attempt and status.get("state") == "Running"
        return right and steps_done(status) >= step and has_stepped(status)

    return steps_done(phase(place.wait(NAMESPACE, NAME, what, done, SECONDS), "pretrain"))


def _limit_links(place: Site, megabits: int | None) -> None:
    for node in SPARKS:
        place.cluster.limit_link(node, megabits)


def _set_suspend(place: Site, suspend: bool) -> None:
    patch = f'{{"spec": {{"suspend": {str(suspend).lower()}}}}}'
    place.cluster.kubectl(
        "patch", f"tcur/{NAME}", f"--namespace={NAMESPACE}", "--type=merge", f"--patch={patch}"
    )


def _suspended(seen: Snapshot) -> bool:
    return seen.condition("Suspended").get("status") == "True"


def _waits_for_spark_2(seen: Snapshot) -> bool:
    status = phase(seen, "pretrain")
    return status["state"] == "Waiting" and '"spark-2" is not Ready' in status.get("message", "")


def _ended_as(outcome: str) -> Callable[[Snapshot], bool]:
    return lambda seen: phase(seen, "pretrain").get("outcome") == outcome


def _in_state(state: str) -> Callable[[Snapshot], bool]:
    return lambda seen: phase(seen, "pretrain").get("state") == state


def _flip_a_bit(file: Path) -> None:
    """In the middle of the file, where its tensors are."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        (byte,) = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))
