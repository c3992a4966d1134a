"""Writing a checkpoint so that a kill or a full disk never costs the last good one; reading one.

It is written to a folder of its own, flushed, and renamed into place; the manifest is its last
file. What is read was verified first. Only the leading process touches the disk, while all take
part in gathering. When to save, and from which thread, is `saving`'s business.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open

from curriculum_trainer import failures, manifest
from curriculum_trainer.manifest import BadCheckpoint, File, Manifest
from curriculum_trainer.optimizer import MOMENTS
from curriculum_trainer.sharding import Sharding
from curriculum_trainer.tensorfile import TensorFile
from curriculum_trainer.weights import Take

Export = Callable[[Path], None]
"""Writes what makes the weights loadable as they lie: configuration and tokenizer."""

Shapes = Mapping[str, tuple[int, ...]]
"""The tensors of one file, in order."""


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


def load_weights(decoder: torch.nn.Module, folder: Path, take: Take) -> None:
    """Hand over every parameter from a verified checkpoint."""
    with safe_open(folder / manifest.MODEL_FILE, framework="pt") as file:
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
            take(name, value)


def load_moments(sharding: Sharding, folder: Path, *, optimizer_steps: int) -> None:
    """Give the optimizer both moments of every parameter and its step count."""
    with safe_open(folder / manifest.OPTIMIZER_FILE, framework="pt") as file, torch.no_grad():
        for name, _ in sharding.names():
            for key in MOMENTS:
                sharding.set_moment(name, key, file.get_tensor(f"{key}.{name}"))
    sharding.set_optimizer_steps(optimizer_steps)


def shapes(sharding: Sharding) -> dict[str, Shapes]:
    """The tensors of each file, in the order of `gathered`."""
    weights = dict(sharding.names())
    moments = {f"{key}.{name}": shape for key in MOMENTS for name, shape in weights.items()}
    return {manifest.MODEL_FILE: weights, manifest.OPTIMIZER_FILE: moments}


def gathered(sharding: Sharding) -> Iterator[torch.Tensor]:
    """Weights, then both moments, in full and one at a time; every process goes through all."""
    names = [name for name, _ in sharding.names()]
    yield from (sharding.weight(name) for name in names)
    yield from (sharding.moment(name, key) for key in MOMENTS for name in names)


def write(
    phase_folder: Path,
    head: Manifest,
    files: Mapping[str, Shapes],
    tensors: Iterator[torch.Tensor],
    *,
    export: Export,
) -> Path:
    """Write one checkpoint and return its folder; whatever fails, no folder of a step is there."""
    work = phase_folder / f"{manifest.PART_PREFIX}{head.attempt}-{head.step}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        written: dict[str, File] = {}
        for name, inside in files.items():
            with TensorFile(work / name, inside) as file:
                for key in inside:
                    file.add(key, next(tensors))
                written[name] = file.finish()
        return _finish(phase_folder, work, head, written, export)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def prune(phase_folder: Path, *, step: int, keep_last: int, keep_every: int | None) -> None:
    """Drop old checkpoints up to `step`, and what unfinished saves have left.

    The newest stay, and those of every `keep_every`-th step. A folder of a later step is one that
    did not verify; it must not displace a good one.
    """
    known = [(number, folder) for number, folder in manifest.steps(phase_folder) if number <= step]
    for number, folder in known[keep_last:]:
        if keep_every is None or number % keep_every:
            # renamed first: a folder that is half gone must not look like a checkpoint
            folder.rename(phase_folder / f"{manifest.PART_PREFIX}old-{number}")
    sweep(phase_folder)


def sweep(phase_folder: Path) -> None:
    """Drop what saves that never finished have left."""
    for folder in phase_folder.glob(f"{manifest.PART_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _finish(
    phase_folder: Path, work: Path, head: Manifest, files: dict[str, File], export: Export
) -> Path:
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
    return target


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
