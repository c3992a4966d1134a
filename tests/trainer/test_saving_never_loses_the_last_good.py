"""A kill at any point of a save, a full disk, a flipped bit: the last good checkpoint stays."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from curriculum_api.run import PhaseRun
from curriculum_trainer import checkpoint, manifest, result
from curriculum_trainer.manifest import MODEL_FILE, OPTIMIZER_FILE
from curriculum_trainer.tensorfile import TensorFile

from .phases import Phases, losses_of

pytestmark = pytest.mark.trainer


Arm = Callable[[PhaseRun], None]


def _kill_on_call(owner: object, name: str, number: int) -> Arm:
    """Ends the process by SIGKILL on the `number`-th call of `owner.name` after the first save."""

    def arm(run: PhaseRun) -> None:
        real, calls = getattr(owner, name), [0]
        first = result.phase_folder(run) / "step-00000001"

        def counted(*arguments: object, **named: object) -> object:
            calls[0] += first.exists()
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        setattr(owner, name, counted)

    return arm


POINTS = [
    pytest.param(_kill_on_call(TensorFile, "add", 5), id="weights"),
    pytest.param(_kill_on_call(TensorFile, "finish", 1), id="after-weights"),
    pytest.param(_kill_on_call(TensorFile, "finish", 2), id="after-moments"),
    pytest.param(_kill_on_call(checkpoint, "_finish", 1), id="before-manifest"),
    pytest.param(_kill_on_call(Path, "rename", 1), id="before-rename"),
    # the first call is the first save's own, which prunes once its folder is there
    pytest.param(_kill_on_call(checkpoint, "prune", 2), id="after-rename"),
]


@pytest.mark.parametrize("arm", POINTS)
def test_a_kill_during_a_save_leaves_a_good_checkpoint(
    phases: Phases, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curriculum_trainer import worker

    real = worker.work

    def armed(run: PhaseRun) -> int:
        arm(run)
        return real(run)

    monkeypatch.setattr(worker, "work", armed)
    run = phases.run(steps=3, checkpoint={"every_steps": 1})
    ended = phases.launch(run)
    monkeypatch.undo()

    assert ended.message == "process 0 was killed by signal 9"
    found = checkpoint.newest(result.phase_folder(run))
    assert found.manifest is not None
    assert found.manifest.step in (1, 2)
    assert found.skipped == []
    again = phases.launch(phases.run(steps=3, attempt=2, checkpoint={"every_steps": 1}))
    assert (again.outcome, again.step) == ("Succeeded", 3)
    left = [path.name for path in result.phase_folder(run).iterdir()]
    assert [name for name in left if name.startswith(".tmp")] == []


def test_a_full_disk_ends_the_phase_and_keeps_the_last_good(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TensorFile.add
    calls = [0]

    def full(self: TensorFile, name: str, tensor: object) -> None:
        calls[0] += 1
        if calls[0] > 60:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, name, tensor)

    monkeypatch.setattr(TensorFile, "add", full)
    run = phases.run(steps=3, checkpoint={"every_steps": 1})
    ended = phases.launch(run)

    assert ended.outcome == "CheckpointError"
    assert "No space left on device" in ended.message
    assert ended.checkpoint is not None
    manifest.verify(phases.folder(run, ended.checkpoint.step))
    assert f"the last good one is {ended.checkpoint.uri}" in ended.message


@pytest.mark.parametrize("name", [MODEL_FILE, OPTIMIZER_FILE, "config.json"])
def test_a_bad_checkpoint_is_not_loaded_and_the_one_before_is(
    phases: Phases, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    phases.launch(phases.run(steps=2, checkpoint={"every_steps": 1}))
    expected = losses_of(capfd.readouterr().out)
    path = phases.folder(phases.run(), 2) / name
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    ended = phases.launch(phases.run(steps=2, attempt=2))
    printed = capfd.readouterr()

    assert ended.outcome == "Succeeded"
    assert losses_of(printed.out) == expected[1:]
    assert "checkpoint not used" in printed.err
    assert str(path) in printed.err
    manifest.verify(phases.folder(phases.run(), 2))


def test_only_the_newest_are_kept(phases: Phases) -> None:
    run = phases.run(steps=4, checkpoint={"every_steps": 1, "keep_last": 2})
    phases.launch(run)

    assert [step for step, _ in manifest.steps(result.phase_folder(run))] == [4, 3]


def test_a_folder_without_a_manifest_is_no_checkpoint(trained: Phases, tmp_path: Path) -> None:
    shutil.copytree(trained.folder(trained.run(), 2), tmp_path / "step-00000002")
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    found = checkpoint.newest(tmp_path)

    assert found.folder is None
    assert "manifest.json" in found.skipped[0]
