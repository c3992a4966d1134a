"""Writing a checkpoint so that a kill or a full disk never costs the last good one; reading one.

It is written to a folder of its own, flushed, and renamed into place; the manifest is its last
file. What is read was verified first. Only the leading process touches the disk, while all take
part in gathering.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open

from curriculum_trainer import failures, manifest
from curriculum_trainer.manifest import BadCheckpoint, File, Manifest
from curriculum_trainer.sharding import MOMENTS, Sharding
from curriculum_trainer.tensorfile import TensorFile

Export = Callable[[Path], None]
"""Writes what makes the weights loadable as they lie: configuration and tokenizer."""


@dataclass(slots=True)
class Found:
    """What the phase's folder holds: the newest good checkpoint, and why newer ones are not."""

    folder: Path | None = None
    manifest: Manifest | None = None
    skipped: list[str] = field(default_factory=list)


def newest(phase_folder: Path) -> Found:
    """The newest checkpoint of a phase that verifies."""
    found = Found()
    for _, folder in manifest.steps(phase_folder):
        try:
            found.manifest = manifest.verify(folder)
        except BadCheckpoint as error:
            found.skipped.append(str(error))
            continue
        found.folder = folder
        return found
    return found


def verified(folder: Path, *, digest: str | None) -> Manifest:
    """The manifest of the checkpoint that a phase starts from; refuses any other than `digest`."""
    try:
        read = manifest.verify(folder)
    except BadCheckpoint as error:
        raise failures.checkpoint_error(f"the phase cannot start: {error}") from error
    actual = manifest.digest(folder)
    if digest is not None and actual != digest:
        raise failures.checkpoint_error(
            f'"{folder}" has digest {actual}, verified was {digest}: it is another checkpoint'
        )
    return read


def load_weights(decoder: torch.nn.Module, folder: Path) -> None:
    """Fill every parameter from a verified checkpoint."""
    with safe_open(folder / manifest.MODEL_FILE, framework="pt") as file, torch.no_grad():
        names = set(file.keys())
        for name, parameter in decoder.named_parameters():
            if name not in names:
                raise failures.checkpoint_error(
                    f'"{folder / manifest.MODEL_FILE}" has no "{name}": it is of another model'
                )
            value = file.get_tensor(name)
            if value.shape != parameter.shape:
                raise failures.checkpoint_error(
                    f'"{folder / manifest.MODEL_FILE}": "{name}" has shape {list(value.shape)}, '
                    f"the model's is {list(parameter.shape)}: it is of another model"
                )
            parameter.copy_(value)


def load_moments(sharding: Sharding, folder: Path, *, optimizer_steps: int) -> None:
    """Give the optimizer both moments of every parameter and its step count."""
    with safe_open(folder / manifest.OPTIMIZER_FILE, framework="pt") as file, torch.no_grad():
        for name, _ in sharding.names():
            for key in MOMENTS:
                sharding.set_moment(name, key, file.get_tensor(f"{key}.{name}"))
    sharding.set_optimizer_steps(optimizer_steps)


def write(
    phase_folder: Path, sharding: Sharding, head: Manifest, *, export: Export, leads: bool
) -> str | None:
    """Write one checkpoint; every process calls it. Returns why it failed, on the leading one.

    The gathering goes on after a failure, because the other processes take part in it.
    """
    work = phase_folder / f"{manifest.PART_PREFIX}{head.attempt}-{head.step}"
    shapes = dict(sharding.names())
    disk = _Disk(work, leads=leads)
    weights = ((name, lambda name=name: sharding.weight(name)) for name in shapes)
    disk.stream(manifest.MODEL_FILE, shapes, weights)
    moments = {f"{key}.{name}": shape for key in MOMENTS for name, shape in shapes.items()}
    values = (
        (f"{key}.{name}", lambda name=name, key=key: sharding.moment(name, key))
        for key in MOMENTS
        for name in shapes
    )
    disk.stream(manifest.OPTIMIZER_FILE, moments, values)
    if leads:
        disk.attempt(lambda: _finish(phase_folder, work, head, disk.files, export))
        if disk.problem is not None:
            shutil.rmtree(work, ignore_errors=True)
    return disk.problem


def prune(phase_folder: Path, *, step: int, keep_last: int) -> None:
    """Drop all but the newest checkpoints up to `step`, and what unfinished saves have left.

    A folder of a later step is one that did not verify; it must not displace a good one.
    """
    folders = [folder for number, folder in manifest.steps(phase_folder) if number <= step]
    for folder in folders[keep_last:]:
        shutil.rmtree(folder, ignore_errors=True)
    sweep(phase_folder)


def sweep(phase_folder: Path) -> None:
    """Drop what saves that never finished have left."""
    for folder in phase_folder.glob(f"{manifest.PART_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


class _Disk:
    """The leading process's side of a save; on the others it only lets them gather."""

    def __init__(self, work: Path, *, leads: bool) -> None:
        self.work = work
        self.leads = leads
        self.problem: str | None = None
        self.files: dict[str, File] = {}
        if leads:
            self.attempt(self._clear)

    def attempt(self, action: Callable[[], None]) -> None:
        if self.problem is not None:
            return
        try:
            action()
        except OSError as error:
            self.problem = f'"{self.work}" cannot be written: {error.strerror or error}'

    def stream(
        self,
        name: str,
        shapes: dict[str, tuple[int, ...]],
        tensors: Iterator[tuple[str, Callable[[], torch.Tensor]]],
    ) -> None:
        with contextlib.ExitStack() as stack:
            file: TensorFile | None = None

            def start() -> None:
                nonlocal file
                file = stack.enter_context(TensorFile(self.work / name, shapes))

            def finish() -> None:
                assert file is not None
                self.files[name] = file.finish()

            if self.leads:
                self.attempt(start)
            for key, gather in tensors:
                tensor = gather()
                if self.leads and file is not None:
                    self.attempt(partial(file.add, key, tensor))
            if self.leads:
                self.attempt(finish)

    def _clear(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)


def _finish(
    phase_folder: Path, work: Path, head: Manifest, files: dict[str, File], export: Export
) -> None:
    export(work)
    for path in sorted(work.iterdir()):
        if path.name not in files:
            _sync(path)
            files[path.name] = File(bytes=path.stat().st_size, sha256=manifest.sha256(path))
    whole = head.model_copy(update={"files": files})
    path = work / manifest.MANIFEST_FILE
    path.write_text(json.dumps(whole.model_dump(mode="json", by_alias=True), indent=1))
    _sync(path)
    _sync(work)
    target = phase_folder / manifest.folder_name(head.step)
    if target.exists():
        # only a checkpoint that did not verify is written again
        target.rename(phase_folder / f"{manifest.PART_PREFIX}bad-{head.attempt}-{head.step}")
    work.rename(target)
    _sync(phase_folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
