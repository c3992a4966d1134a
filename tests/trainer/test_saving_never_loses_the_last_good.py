"""A kill at any point of a save, a full disk, a flipped bit: the last good checkpoint stays."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from curriculum_trainer import checkpoint, manifest, result
from curriculum_trainer.manifest import MANIFEST_FILE, MODEL_FILE, OPTIMIZER_FILE
from curriculum_trainer.sharding import DataParallel
from curriculum_trainer.tensorfile import TensorFile

from .arming import Action, arm, kill_on_call
from .phases import Phases, losses_of

pytestmark = pytest.mark.trainer

# from the copy to the last line of pruning; all but the first two in the thread that writes
POINTS = [
    pytest.param(kill_on_call(DataParallel, "weight", 1), id="first-copy"),
    pytest.param(kill_on_call(DataParallel, "moment", 7), id="half-copied"),
    pytest.param(kill_on_call(TensorFile, "__init__", 1), id="before-weights"),
    pytest.param(kill_on_call(TensorFile, "add", 5), id="weights"),
    pytest.param(kill_on_call(TensorFile, "finish", 1), id="after-weights"),
    pytest.param(kill_on_call(TensorFile, "finish", 2), id="after-moments"),
    pytest.param(kill_on_call(checkpoint, "_finish", 1), id="before-manifest"),
    pytest.param(kill_on_call(Path, "rename", 1), id="before-rename"),
    # the first call is the first save's own, which prunes once its folder is there
    pytest.param(kill_on_call(checkpoint, "prune", 2), id="after-rename"),
    pytest.param(kill_on_call(checkpoint, "sweep", 1, step=2), id="half-pruned"),
]


@pytest.mark.parametrize("action", POINTS)
def test_a_kill_during_a_save_leaves_a_good_checkpoint(
    phases: Phases, action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = {"every_steps": 1, "keep_last": 1}
    run = phases.run(steps=3, checkpoint=every)
    with monkeypatch.context() as patch:
        arm(patch, action)
        ended = phases.launch(run)

    assert ended.message == "process 0 was killed by signal 9"
    found = checkpoint.newest(result.phase_folder(run))
    assert found.manifest is not None
    assert found.manifest.step in (1, 2)
    assert found.skipped == []
    again = phases.launch(phases.run(steps=3, attempt=2, checkpoint=every))
    assert (again.outcome, again.step) == ("Succeeded", 3)
    left = [path.name for path in result.phase_folder(run).iterdir()]
    assert [name for name in left if name.startswith(".tmp")] == []


@contextlib.contextmanager
def _small_volume(folder: Path, num_bytes: int) -> Iterator[None]:
    """A file system of its own; needs root, which the tests of the cluster need as well."""
    folder.mkdir(parents=True)
    options = f"size={num_bytes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def _small_files(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may mount; runs where the cluster tests do"
)
@pytest.mark.parametrize("share", [1.2, 1.5, 1.9], ids=["weights", "moments", "last-files"])
def test_a_full_disk_ends_the_phase_and_keeps_the_last_good(
    phases: Phases, trained: Phases, share: float
) -> None:
    size = sum(path.stat().st_size for path in trained.folder(trained.run(), 2).iterdir())
    run = phases.run(steps=3, checkpoint={"every_steps": 1})
    with _small_volume(Path(run.checkpoints_dir), int(share * size)):
        ended = phases.launch(run)

        assert ended.outcome == "CheckpointError"
        assert os.strerror(errno.ENOSPC) in ended.message
        assert "make room on the checkpoint volume" in ended.message
        assert ended.checkpoint is not None
        assert ended.checkpoint.step == 1
        assert f"the last good one is {ended.checkpoint.uri}" in ended.message
        manifest.verify(phases.folder(run, 1))
        # nothing half-written holds what room there is
        left = sum(path.stat().st_size for path in result.phase_folder(run).glob(".tmp-*/*"))
        assert left == 0


@pytest.mark.parametrize("steps", [2, 4], ids=["at-the-end", "on-the-way"])
def test_a_file_that_cannot_grow_ends_all_processes(phases: Phases, steps: int) -> None:
    gang = {"processes_per_node": 2, "checkpoint": {"every_steps": 1}}
    assert phases.launch(phases.run("first", steps=1, **gang)).outcome == "Succeeded"
    run = phases.run("first", steps=steps, attempt=2, **gang)
    size = (phases.folder(run, 1) / OPTIMIZER_FILE).stat().st_size
    with _small_files(size - 1):
        ended = phases.launch(run)

    assert ended.outcome == "CheckpointError"
    assert f'{OPTIMIZER_FILE}": {os.strerror(errno.EFBIG)}' in ended.message
    assert ended.checkpoint is not None
    assert ended.checkpoint.step == 1
    again = phases.launch(phases.run("first", steps=steps, attempt=3, **gang))
    assert (again.outcome, again.step) == ("Succeeded", steps)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" ")


DAMAGES = [
    pytest.param(MODEL_FILE, _flip, id="weights-flipped"),
    pytest.param(OPTIMIZER_FILE, _flip, id="moments-flipped"),
    pytest.param("config.json", _flip, id="config-flipped"),
    pytest.param(MODEL_FILE, _cut, id="weights-cut"),
    pytest.param(OPTIMIZER_FILE, _grow, id="moments-grown"),
    pytest.param(MODEL_FILE, Path.unlink, id="weights-gone"),
    pytest.param("config.json", Path.unlink, id="config-gone"),
    pytest.param(MANIFEST_FILE, _cut, id="manifest-cut"),
    pytest.param(MANIFEST_FILE, Path.unlink, id="manifest-gone"),
]


@pytest.fixture(scope="module")
def two_steps(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Phases:
    """A phase with the checkpoints of steps 1 and 2; copy it, do not change it."""
    made = Phases(data=data, root=tmp_path_factory.mktemp("two"))
    ended = made.launch(made.run(steps=2, checkpoint={"every_steps": 1}))
    assert ended.outcome == "Succeeded"
    return made


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_bad_checkpoint_is_not_loaded_and_the_one_before_is(
    two_steps: Phases,
    phases: Phases,
    name: str,
    damage: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(two_steps.root, phases.root, dirs_exist_ok=True)
    path = phases.folder(phases.run(), 2) / name
    damage(path)
    ended = phases.launch(phases.run(steps=2, attempt=2))
    printed = capfd.readouterr()

    assert (ended.outcome, ended.step) == ("Succeeded", 2)
    assert len(losses_of(printed.out)) == 1
    assert "checkpoint not used" in printed.err
    assert str(path) in printed.err
    for file in (MODEL_FILE, OPTIMIZER_FILE):
        whole = two_steps.folder(two_steps.run(), 2) / file
        assert manifest.sha256(phases.folder(phases.run(), 2) / file) == manifest.sha256(whole)
    manifest.verify(phases.folder(phases.run(), 2))


def test_only_the_newest_are_kept(phases: Phases) -> None:
    run = phases.run(steps=4, checkpoint={"every_steps": 1, "keep_last": 2})
    phases.launch(run)

    assert [step for step, _ in manifest.steps(result.phase_folder(run))] == [4, 3]


def test_every_so_many_steps_one_is_kept_for_good(phases: Phases) -> None:
    run = phases.run(steps=7, checkpoint={"every_steps": 1, "keep_last": 1, "keep_every": 3})
    phases.launch(run)

    assert [step for step, _ in manifest.steps(result.phase_folder(run))] == [7, 6, 3]


def test_a_folder_without_a_manifest_is_no_checkpoint(trained: Phases, tmp_path: Path) -> None:
    shutil.copytree(trained.folder(trained.run(), 2), tmp_path / "step-00000002")
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    found = checkpoint.newest(tmp_path)

    assert found.folder is None
    assert "manifest.json" in found.skipped[0]
