"""`curriculum doctor --measure` of this machine: the trainer's own program, started for it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curriculum_api.preflight.figures import Check, Measured, NodeFigures, Proof
from curriculum_api.run import PhaseRun
from curriculum_api.wire import Precision
from curriculum_cli import doctor_measure, machine

FOUND = Proof(
    measured=Measured(
        precision=Precision.FP32, nodes=(NodeFigures(node="here", figures={Check.MATMUL: 0.1}),)
    )
)


def answering(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str, complaint: str = ""
) -> Callable[[], PhaseRun]:
    """Let the trainer answer so; returns what tells the run that it was given."""
    given: list[PhaseRun] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert [sys.executable, "-m", "curriculum_trainer.prove", "--run"] == command[:4]
        assert command[5:] == ["--here"]
        given.append(PhaseRun.model_validate_json(Path(command[4]).read_text()))
        return subprocess.CompletedProcess(command, code, said, complaint)

    monkeypatch.setattr(subprocess, "run", run)
    return lambda: given[0]


@pytest.mark.trainer
def test_two_processes_are_measured_with_the_link_between_and_the_folder(tmp_path: Path) -> None:
    """For real."""
    found = doctor_measure.on_this_machine(2, tmp_path / "checkpoints")

    assert len(found.measured.nodes) == 2
    for node in found.measured.nodes:
        assert {Check.MATMUL, Check.WRITE, Check.READ} <= node.figures.keys()
    (pair,) = found.measured.pairs
    assert pair.figures[Check.LINK] > 0
    assert list(tmp_path.iterdir()) == [], "it leaves no folder that was not there"


@pytest.mark.parametrize(("gpus", "precision"), [(0, "FP32"), (4, "BF16")])
def test_the_last_line_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, precision: str
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    given = answering(monkeypatch, 0, f"preflight of 1 nodes\n{FOUND.model_dump_json()}\n")

    assert doctor_measure.on_this_machine(4, tmp_path) == FOUND
    assert (4, 1, precision) == (given().nodes, given().processes_per_node, given().precision)
    assert given().checkpoints_dir == str(tmp_path)


@pytest.mark.parametrize(
    ("code", "said", "complaint", "told"),
    [
        pytest.param(
            6,
            "",
            "Traceback\nFabricError: preflight did not end in its 120 s\n",
            "this machine could not be measured: FabricError: preflight did not end in its 120 s",
            id="it failed",
        ),
        pytest.param(-9, "", "", "exit code -9 and not a word", id="it was killed"),
        pytest.param(0, "hello\n", "", 'no measurement: "hello"', id="it said something else"),
    ],
)
def test_what_went_wrong_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    said: str,
    complaint: str,
    told: str,
) -> None:
    answering(monkeypatch, code, said, complaint)
    with pytest.raises(ValueError) as caught:
        doctor_measure.on_this_machine(1, tmp_path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_torch_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="torch is not installed here"):
        doctor_measure.on_this_machine(1, tmp_path)
