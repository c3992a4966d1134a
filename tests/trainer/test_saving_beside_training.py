"""The loop is held for the copy alone; what a thread writes is the state of the step it is of."""

import errno
import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from curriculum_api.run import PhaseRun
from curriculum_api.wire import OptimizerName
from curriculum_trainer import checkpoint, machine, manifest, result
from curriculum_trainer.manifest import MODEL_FILE, MOMENTS_OF, OPTIMIZER_FILE, sha256
from curriculum_trainer.result import Reached
from curriculum_trainer.saving import STALL_METRIC, Saver
from curriculum_trainer.sharding import DataParallel
from curriculum_trainer.tensorfile import TensorFile

from .arming import arm, before
from .phases import SEQUENCE_PARALLEL, Phases, steps_of

pytestmark = pytest.mark.trainer

PATIENCE_SECONDS = 60


def _hold_writes_until(owner: object, name: str, call: int) -> Callable[[PhaseRun], None]:
    """Nothing is written before the `call`-th call of `owner.name`."""

    def action(_run: PhaseRun) -> None:
        reached, calls = threading.Event(), [0]

        def count() -> None:
            calls[0] += 1
            if calls[0] == call:
                reached.set()

        def hold() -> None:
            if not reached.wait(PATIENCE_SECONDS):
                raise TimeoutError(f"{name} was not called while a checkpoint was written")

        before(owner, name, count)
        before(TensorFile, "add", hold)

    return action


def _same(one: Path, other: Path) -> bool:
    return all(sha256(one / name) == sha256(other / name) for name in (MODEL_FILE, OPTIMIZER_FILE))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Phases:
    """A phase whose every step was saved; read it, do not write into it."""
    made = Phases(data=data, root=tmp_path_factory.mktemp("whole"))
    run = made.run(steps=4, checkpoint={"every_steps": 1, "keep_last": 9})
    assert made.launch(run).outcome == "Succeeded"
    return made


def test_training_goes_on_while_a_checkpoint_is_written(
    phases: Phases, whole: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the write of step 2 waits for the update of step 4, which follows that of step 3
    arm(monkeypatch, _hold_writes_until(DataParallel, "step", 4))
    run = phases.run(steps=4, checkpoint={"every_steps": 2})
    ended = phases.launch(run)

    assert (ended.outcome, ended.step) == ("Succeeded", 4)
    assert ended.metrics[STALL_METRIC] > 0
    for step in (2, 4):
        assert _same(phases.folder(run, step), whole.folder(run, step))


def test_a_save_waits_for_the_one_before(
    phases: Phases, whole: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the first call is that of the first save, which has none before it
    arm(monkeypatch, _hold_writes_until(Saver, "finish", 2))
    run = phases.run(steps=2, checkpoint={"every_steps": 1})
    ended = phases.launch(run)

    assert ended.outcome == "Succeeded"
    for step in (1, 2):
        assert _same(phases.folder(run, step), whole.folder(run, step))


def test_a_kill_during_the_write_resumes_from_the_checkpoint_before(
    phases: Phases,
    whole: Phases,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def action(run: PhaseRun) -> None:
        first, held, never = phases.folder(run, 1), threading.Event(), threading.Event()
        updates = itertools.count(1)

        def hold() -> None:
            if first.exists():
                held.set()
                never.wait(PATIENCE_SECONDS)

        def kill() -> None:
            # the third update comes after the second save was begun
            if next(updates) == 3 and held.wait(PATIENCE_SECONDS):
                os.kill(os.getpid(), signal.SIGKILL)

        before(TensorFile, "finish", hold)
        before(DataParallel, "step", kill)

    with monkeypatch.context() as patch:
        arm(patch, action)
        run = phases.run(steps=4, checkpoint={"every_steps": 1})
        assert phases.launch(run).message == "process 0 was killed by signal 9"
    capfd.readouterr()
    written = [path.name for path in result.phase_folder(run).iterdir()]
    assert ".tmp-1-2" in written
    ended = phases.launch(phases.run(steps=4, attempt=2))

    assert [line["step"] for line in steps_of(capfd.readouterr().out)] == [2, 3, 4]
    assert (ended.outcome, ended.step) == ("Succeeded", 4)
    assert _same(phases.folder(run, 4), whole.folder(run, 4))


def test_a_checkpoint_counts_though_older_ones_cannot_be_removed(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    arm(monkeypatch, lambda _run: before(checkpoint, "prune", refuse))
    run = phases.run(steps=2, checkpoint={"every_steps": 1, "keep_last": 1})
    ended = phases.launch(run)

    assert (ended.outcome, ended.step) == ("Succeeded", 2)
    assert "older checkpoints could not be removed" in capfd.readouterr().out
    for step in (1, 2):
        manifest.verify(phases.folder(run, step))


def test_an_attempt_that_fails_still_ends_its_save(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def action(run: PhaseRun) -> None:
        _hold_writes_until(Reached, "settle", 1)(run)
        calls = [0]

        def fail() -> None:
            calls[0] += 1
            if calls[0] == 2:
                raise RuntimeError("a fault of the model")

        before(DataParallel, "step", fail)

    arm(monkeypatch, action)
    run = phases.run(steps=4, checkpoint={"every_steps": 1})
    ended = phases.launch(run)

    assert (ended.outcome, ended.message) == ("Unknown", "RuntimeError: a fault of the model")
    assert ended.checkpoint is not None
    assert ended.checkpoint.step == 1
    assert ended.checkpoint.digest == manifest.digest(phases.folder(run, 1))


@pytest.mark.parametrize("layout", [{}, SEQUENCE_PARALLEL], ids=["DDP-1", "ZeRO3-SP2"])
def test_without_room_for_a_copy_the_loop_waits_and_says_so(
    phases: Phases,
    layout: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = phases.run("with-room", steps=2, **layout)
    assert phases.launch(run).outcome == "Succeeded"
    monkeypatch.setattr(machine, "available_bytes", lambda: 1000)
    capfd.readouterr()
    without = phases.run("without", steps=2, checkpoint={"every_steps": 1}, **layout)
    assert phases.launch(without).outcome == "Succeeded"

    printed = capfd.readouterr().out
    assert printed.count("checkpoints are written while the loop waits: a snapshot takes") == 1
    assert _same(phases.folder(without, 2), phases.folder(run, 2))


def test_the_room_is_that_of_the_smallest_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "pod" / "container"
    own.mkdir(parents=True)
    (own.parent / "memory.max").write_text("5000\n")
    (own.parent / "memory.current").write_text("4000\n")
    (own.parent / "memory.stat").write_text("anon 3500\ninactive_file 300\n")
    (own / "memory.max").write_text("max\n")
    (own / "memory.current").write_text("2000\n")
    monkeypatch.setattr(machine, "_own_cgroup", lambda: own)

    assert machine.available_bytes() == 1300


def test_every_optimizer_says_what_its_moments_are() -> None:
    assert set(MOMENTS_OF) == set(OptimizerName)
