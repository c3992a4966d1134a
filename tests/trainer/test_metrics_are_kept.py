"""Metrics: torchtitan's keys, one line per step, kept beside the checkpoints over all attempts."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curriculum_trainer import journal, machine, metrics, result
from curriculum_trainer.journal import Journal
from curriculum_trainer.metrics import Cost, Step

from .phases import Phases, losses_of, steps_of

KEYS = {
    "loss_metrics/global_avg_loss", "loss_metrics/global_max_loss", "grad_norm", "lr",
    "throughput(tps)", "tflops", "mfu(%)", "time_metrics/end_to_end(s)",
    "time_metrics/data_loading(s)", "time_metrics/data_loading(%)", "memory/max_reserved(GiB)",
}  # fmt: skip


def _events(folder: Path) -> list[Any]:
    """Every event that TensorBoard would read, file by file in the order of their attempts."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix):
        data = path.read_bytes()
        while data:
            # length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def _scalars(events: list[Any], tag: str) -> dict[int, float]:
    """A tag's values by step as TensorBoard shows them: a restart hides what came after it."""
    shown: dict[int, float] = {}
    for event in events:
        if event.session_log.status == 1:
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == tag:
                shown[event.step] = value.simple_value
    return shown


@pytest.mark.trainer
def test_metrics_go_on_over_a_resumed_attempt(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    run = phases.run(steps=5, checkpoint={"every_steps": 2})
    assert phases.launch(run).outcome == "Succeeded"
    expected = losses_of(capfd.readouterr().out)
    folder = result.phase_folder(run)
    # as after a kill in step 6: its last checkpoint is step 4's, a line is half written
    for path in (folder / "step-00000005").iterdir():
        path.unlink()
    (folder / "step-00000005").rmdir()
    with (folder / journal.METRICS_FILE).open("a") as file:
        file.write('{"step": 6, "lo')
    again = run.model_copy(update={"attempt": 2, "tokens": run.tokens * 6 // 5})
    assert phases.launch(again).outcome == "Succeeded"
    assert [line["step"] for line in steps_of(capfd.readouterr().out)] == [5, 6]

    kept = [json.loads(line) for line in (folder / journal.METRICS_FILE).read_text().splitlines()]
    assert [line["step"] for line in kept] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in kept[:5]] == pytest.approx(expected, rel=1e-6)
    shown = _scalars(_events(folder / journal.TENSORBOARD_FOLDER), "loss_metrics/global_avg_loss")
    assert list(shown) == [1, 2, 3, 4, 5, 6]
    assert list(shown.values()) == pytest.approx([line["loss"] for line in kept], rel=1e-6)


@pytest.mark.trainer
def test_every_step_has_torchtitan_s_keys_and_no_number_without_a_reason(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = phases.launch(phases.run(processes_per_node=2))
    lines = steps_of(capfd.readouterr().out)

    for line in lines:
        assert {"step", "tokens", "loss", "tokens_per_second", "step_seconds"} | KEYS == set(line)
        assert line["mfu(%)"] is None
        assert line["loss_metrics/global_max_loss"] >= line["loss_metrics/global_avg_loss"]
        assert 0 < line["time_metrics/data_loading(s)"] < line["time_metrics/end_to_end(s)"]
        assert 0.01 < line["memory/max_reserved(GiB)"] < 64
    assert set(ended.metrics) - {"checkpoint/stall(s)"} == KEYS - {"mfu(%)"}
    assert ended.metrics["grad_norm"] == lines[-1]["grad_norm"]


@pytest.mark.trainer
def test_a_full_disk_ends_the_metrics_with_one_line_and_not_the_training(
    phases: Phases, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = [0]

    def full(self: Any, **_: Any) -> None:
        writes[0] += 1
        if writes[0] > 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal._Events, "_put", full)
    ended = phases.launch(phases.run(steps=4))
    said = capfd.readouterr()

    assert ended.outcome == "Succeeded"
    assert len(steps_of(said.out)) == 4
    assert said.err.count("metrics are no longer kept in") == 1
    assert "No space left on device; training goes on" in said.err


def test_a_folder_that_cannot_be_made_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    kept = Journal(tmp_path / "file" / "below", step=0, attempt=1)
    kept.add(1, {"step": 1, "loss": 2.0})
    kept.add(2, {"step": 2, "loss": 2.0})

    assert capsys.readouterr().err.count("\n") == 1


LINES = [
    pytest.param('{"step": 1}\n{"step": 2}\n', 2, 2, id="nothing"),
    pytest.param('{"step": 1}\n{"step": 2}\n', 1, 1, id="a-step"),
    pytest.param('{"step": 1}\n{"step": 2}\n', 0, 0, id="everything"),
    pytest.param('{"step": 1}\n{"step": 2', 2, 1, id="half-a-line"),
    pytest.param('{"step": 1}\nrubbish\n{"step": 2}\n', 2, 1, id="rubbish"),
    pytest.param("", 2, 0, id="empty"),
]


@pytest.mark.parametrize(("text", "step", "left"), LINES)
def test_what_lies_behind_the_step_is_cut(tmp_path: Path, text: str, step: int, left: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    journal.cut(path, step=step)

    assert path.read_text() == "".join(f'{{"step": {n + 1}}}\n' for n in range(left))


def _step(**changes: Any) -> Step:
    given = {"loss": 2.0, "loss_most": 2.5, "norm": 1.0, "rate": 1e-3, "seconds": 2.0,
             "waited": 0.5, "memory_bytes": 1 << 31, "attended": 32.0}  # fmt: skip
    return Step(**(given | changes))


def test_mfu_is_the_model_s_own_operations_over_the_peak(phases: Phases) -> None:
    run = phases.run(processes_per_node=2)
    cost = Cost(per_token=1e6, per_attended=1e4, peak=1e9)
    found = metrics.figures(run, _step(), cost)

    # 256 tokens in 2 s over 2 devices, of 1e6 + 32e4 operations each
    assert found["throughput(tps)"] == 64
    assert found["tflops"] == 64 * 1.32e6 / 1e12
    assert found["mfu(%)"] == 8.45
    assert found["time_metrics/data_loading(%)"] == 25
    assert found["memory/max_reserved(GiB)"] == 2


def test_what_is_not_finite_is_null_and_a_skipped_step_says_so(phases: Phases) -> None:
    step = _step(loss=float("nan"), norm=float("inf"), skipped="sequences 4 to 7 of text")
    line = metrics.line(phases.run(), step, Cost(0.0, 0.0), number=2, tokens=512)

    assert json.loads(json.dumps(line, allow_nan=False))["skipped"] == "sequences 4 to 7 of text"
    assert (line["loss"], line["grad_norm"], line["loss_metrics/global_max_loss"]) == (
        None, None, 2.5,
    )  # fmt: skip


def test_resident_memory_is_this_program_s_own() -> None:
    """Not what the process held before it became this program, as `getrusage` has it."""
    here = np.ones(1 << 26)
    most = machine.peak_resident_bytes()
    code = "from curriculum_trainer import machine; print(machine.peak_resident_bytes())"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert here.nbytes < most
    assert 1 << 20 < int(started.stdout) < most / 4
