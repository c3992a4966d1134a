"""`python -m curriculum_trainer.prove`: the figures of a preflight with no phase, by real
processes over gloo; the last line is for programs."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from curriculum_api.preflight.figures import Check, Figures, Proof
from curriculum_api.run import EXIT_CODES, PhaseResult, PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import preflight_node, processes, prove, proving
from curriculum_trainer.preflight_node import Product

from .arming import before
from .listener import listening
from .phases import Phases

pytestmark = pytest.mark.trainer

FABRIC_ERROR = EXIT_CODES[Outcome.FABRIC_ERROR]


@pytest.fixture(autouse=True)
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch is imported once for all."""
    monkeypatch.setattr(processes, "choose", lambda _: processes.fork)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def _run(phases: Phases, *, nodes: int, storage: bool = False, **asked: object) -> PhaseRun:
    run = phases.run("by-hand", nodes=nodes, tokens=1024, preflight=asked)
    return run if storage else run.model_copy(update={"checkpoints_dir": ""})


class Pod:
    """A launcher in a process of its own, and what it leaves."""

    def __init__(self, phases: Phases, run: PhaseRun, name: str, **own: str) -> None:
        self._said, self._message = phases.root / f"{name}.log", phases.root / f"{name}.end"
        path = phases.file(run)
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.dup2(os.open(self._said, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 1)
            os.dup2(1, 2)
            # pytest has others in their place
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            os.environ.update(own, TERMINATION_MESSAGE_PATH=str(self._message))
            here = [] if "PET_NODE_RANK" in own else ["--here"]
            code = prove.main(["--run", str(path), *here])
            sys.stderr.flush()
        finally:
            os._exit(code)

    def ended(self) -> tuple[int, list[str]]:
        """Its exit code and its lines."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), self._said.read_text().splitlines()

    def proof(self) -> Proof:
        """The last line of one that measured."""
        code, lines = self.ended()
        assert code == 0, lines
        return Proof.model_validate_json(lines[-1])

    def message(self) -> PhaseResult:
        """What the kubelet would tell of it."""
        return PhaseResult.model_validate_json(self._message.read_text())


def _arm(monkeypatch: pytest.MonkeyPatch, rank: int, action: Callable[[], object]) -> None:
    """Let one process of the gang begin with `action`."""
    real = proving.work

    def armed(run: PhaseRun) -> int:
        if int(os.environ["RANK"]) == rank:
            action()
        return real(run)

    monkeypatch.setattr(proving, "work", armed)


def _slow_products() -> None:
    real = Product.burst

    def burst(self: Product) -> Figures:
        return {**real(self), Check.MATMUL: 1e-6}

    Product.burst = burst  # type: ignore[method-assign]


def _figures(proof: Proof) -> Mapping[str, Figures]:
    return {node.node: node.figures for node in proof.measured.nodes}


def test_who_only_measures_does_not_wait_for_the_model_s_libraries() -> None:
    """They are two thirds of what a training process imports."""
    code = "import sys, curriculum_trainer.proving; print('transformers' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False"]


def test_two_processes_of_this_machine_are_a_pair(phases: Phases) -> None:
    proof = Pod(phases, _run(phases, nodes=2), "here").proof()

    host = socket.gethostname()
    assert [f"{host}-0", f"{host}-1"] == [node.node for node in proof.measured.nodes]
    for figures in _figures(proof).values():
        assert {Check.MATMUL, Check.MEMORY} <= figures.keys()
        assert not {Check.WRITE, Check.READ} & figures.keys(), "there is no folder"
    (pair,) = proof.measured.pairs
    assert pair.figures[Check.LINK] > 0.01
    assert proof.measured.together[Check.REDUCE] > 0
    assert proof.fabric.startswith("gloo over lo")
    assert not proof.findings.suspects


def test_one_process_has_no_pair_and_a_folder_is_measured_and_left_as_it_was(
    phases: Phases,
) -> None:
    folder = phases.root / "checkpoints" / "uid"
    folder.mkdir(parents=True)
    proof = Pod(phases, _run(phases, nodes=1, storage=True), "here").proof()

    ((name, figures),) = _figures(proof).items()
    assert name == socket.gethostname()
    assert figures[Check.WRITE] > 0
    assert figures[Check.READ] > 0
    assert proof.measured.pairs == ()
    assert proof.fabric == ""
    assert list(folder.iterdir()) == []


def test_a_slow_node_is_found_by_its_floor_and_that_is_no_error(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pods, as the training-operator starts them; nobody is told of it."""
    _arm(monkeypatch, 1, _slow_products)
    run = _run(phases, nodes=2, floors={"matmul": 1e-3})
    with listening() as listener:
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", listener.url)
        first, second = _pods(phases, run)
        proof = first.proof()
        assert second.ended()[0] == 0
    assert listener.posts == []

    (suspect,) = proof.findings.suspects
    assert ("spark-2", Check.MATMUL, 1e-3) == (suspect.node, suspect.check, suspect.floor)
    assert proof.floors == {Check.MATMUL: 1e-3}
    assert proof.measured.pairs
    assert not (phases.root / "checkpoints").exists(), "no result is kept"


def test_what_cannot_be_measured_is_an_error_of_one_line(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    _arm(monkeypatch, 1, lambda: before(preflight_node, "boot", lambda: os._exit(3)))
    pod = Pod(phases, _run(phases, nodes=2, seconds=10), "here")
    code, lines = pod.ended()

    assert code != 0
    told = pod.message()
    assert told.outcome is not Outcome.SUCCEEDED
    assert f"{told.outcome}: {told.message}" == lines[-1]
    assert not [line for line in lines if line.startswith("{")]


def test_who_does_not_come_is_named(phases: Phases, monkeypatch: pytest.MonkeyPatch) -> None:
    _arm(monkeypatch, 1, lambda: before(preflight_node, "boot", lambda: os.read(os.pipe()[0], 1)))
    first, second = _pods(phases, _run(phases, nodes=2, seconds=10))
    code, lines = first.ended()
    os.kill(second.pid, signal.SIGKILL)
    second.ended()

    assert code == FABRIC_ERROR
    assert "preflight did not end in its 10 s: at the start it waited for process 1" in lines[-1]


def test_a_run_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prove.main(["--run", str(tmp_path / "none.json")]) == EXIT_CODES[Outcome.USER_ERROR]
    assert "none.json" in capsys.readouterr().err


def _pods(phases: Phases, run: PhaseRun) -> list[Pod]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return [
        Pod(
            phases,
            run,
            f"pod-{number}",
            PET_NODE_RANK=str(number),
            NODE_NAME=f"spark-{number + 1}",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            GLOO_SOCKET_IFNAME="lo",
        )
        for number in range(run.nodes)
    ]
