"""`curriculum doctor --calibrate` measures this machine, and `curriculum plan` goes by it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from curriculum_api.calibration_figures import Product
from curriculum_api.wire import Precision
from curriculum_cli import plan
from curriculum_trainer import measure

pytestmark = pytest.mark.trainer

EXAMPLE = Path(__file__).parents[2] / "examples" / "laptop.yaml"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_probe_makes_a_class_that_a_plan_takes(
    processes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "cpu.yaml"
    command = [
        sys.executable, "-m", "curriculum_cli.main", "doctor", "--calibrate", "--brief",
        "--processes", str(processes), "--checkpoints", str(tmp_path / "checkpoints"),
        "--name", "this-machine", "-o", str(made),
    ]  # fmt: skip
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    performance = yaml.safe_load(made.read_text())["spec"]["performance"]
    assert [rate["precision"] for rate in performance["matmul"]] == ["FP32", "BF16"]
    assert all("curriculum doctor --calibrate" in rate["source"] for rate in performance["matmul"])
    assert [update["optimizer"] for update in performance["updates"]] == [
        "AdamW", "AdamW8bit", "AdamW4bit",
    ]  # fmt: skip
    assert ("link" in performance) == (processes > 1)
    assert list((tmp_path / "checkpoints").iterdir()) == []

    document = yaml.safe_load(EXAMPLE.read_text())
    for phase in document["spec"]["phases"]:
        phase |= {"acceleratorClass": "this-machine", "gpusPerNode": processes}
    curriculum = tmp_path / "curriculum.yaml"
    curriculum.write_text(yaml.safe_dump(document))
    code = plan.main(["-f", str(curriculum), "-f", str(made), "-o", "json"])
    planned = json.loads(capsys.readouterr().out)

    assert code == plan.FEASIBLE, [phase["problems"] for phase in planned["phases"]]
    assert all(phase["tokensPerSecond"] > 0 for phase in planned["phases"])


def test_a_probe_that_fails_is_one_line(tmp_path: Path) -> None:
    """A class is never made of half a measurement."""
    made, blocked = tmp_path / "cpu.yaml", tmp_path / "blocked"
    blocked.write_text("a file where the folder would be")
    command = [
        sys.executable, "-m", "curriculum_cli.main", "doctor", "--calibrate", "--brief",
        "--checkpoints", str(blocked), "-o", str(made),
    ]  # fmt: skip
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("curriculum doctor: ")
    assert len(done.stderr.splitlines()) == 1
    assert not made.exists()


def test_of_several_rounds_the_middle_is_told_and_of_the_fastest_the_fastest() -> None:
    def took(rate: float, fastest: float) -> dict[str, object]:
        product = Product(precision=Precision.FP32, width=128, rate=rate, fastest=fastest)
        return {"products": (product,), "copied": rate, "fastest_copy": fastest, "link": None}

    found = measure.middle([took(2.0, 5.0), took(9.0, 4.0), took(3.0, 7.0)])

    assert found == took(3.0, 7.0)
