"""A checkpoint's manifest, and finding and verifying checkpoints. Needs pydantic and no torch.

    <checkpoints>/<phase's folder>/step-00000042/
        model.safetensors optimizer.safetensors config.json tokenizer...
        manifest.json        written last; the folder is renamed into place after it

A folder without a manifest that agrees with its files does not count as a checkpoint.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from curriculum_api.wire import OptimizerName, Strategy, Wire

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
PART_PREFIX = ".tmp-"
"""Folders that are being written."""

_STEP = re.compile(r"^step-(\d{8})$")
_HASHED_AT_ONCE = 2
"""Weights and moments: the two files that take time."""


class File(Wire):
    """One file of a checkpoint."""

    bytes: int
    sha256: str


class Layout(Wire):
    """How the processes that wrote it were laid out; a reader needs none of it."""

    strategy: Strategy
    world_size: int
    sequence_parallel: int


class Cursor(Wire):
    """Where in the data the next step starts; the order is a pure function of seed and step."""

    seed: int
    step: int


Moments = Literal["FP32", "8bit", "4bit"]

MOMENTS_OF: dict[OptimizerName, Moments] = {
    OptimizerName.ADAMW: "FP32",
    OptimizerName.ADAMW_8BIT: "8bit",
    OptimizerName.ADAMW_4BIT: "4bit",
}


class Manifest(Wire):
    """What `manifest.json` says."""

    version: Literal[1] = 1
    phase: str
    attempt: int
    step: int
    """Optimizer steps of the phase."""

    tokens: int
    """Tokens of the phase."""

    optimizer_steps: int
    """Updates that the moments have seen, over all phases; Adam's bias correction needs it."""

    cursor: Cursor
    config_digest: str
    """Digest of what must not change within a phase."""

    source: Layout
    moments: Moments = "FP32"
    """What the writer's moments were; the file holds FP32, dequantised once where they were not."""

    init_digest: str | None = None
    """Digest of the checkpoint that the phase started from."""

    loss_first: float | None = None
    loss_last: float | None = None
    seconds: float = 0.0
    """Seconds in the training loop, over all attempts."""

    files: dict[str, File]


class BadCheckpoint(Exception):
    """A checkpoint that must not be loaded; the message names the file and what is wrong."""


def folder_name(step: int) -> str:
    """The folder of a step within a phase's folder."""
    return f"step-{step:08d}"


def steps(phase_folder: Path) -> Iterator[tuple[int, Path]]:
    """Every step's folder, newest first, whatever its state."""
    if not phase_folder.is_dir():
        return
    found = [(_STEP.match(path.name), path) for path in phase_folder.iterdir()]
    numbered = [(int(match.group(1)), path) for match, path in found if match]
    yield from sorted(numbered, reverse=True)


def read(folder: Path) -> Manifest:
    """The manifest of a checkpoint's folder, without looking at the files."""
    path = folder / MANIFEST_FILE
    try:
        return Manifest.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        raise BadCheckpoint(f'"{path}" is missing') from None
    except (OSError, ValueError, ValidationError) as error:
        raise BadCheckpoint(f'"{path}" cannot be read: {error}') from error


def digest(folder: Path) -> str:
    """The checkpoint's digest: that of its manifest's bytes."""
    return "sha256:" + hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()


def verify(folder: Path) -> Manifest:
    """The manifest, after every file was found to be as it says."""
    manifest = read(folder)
    with ThreadPoolExecutor(_HASHED_AT_ONCE, thread_name_prefix="verify") as threads:
        names = sorted(manifest.files)
        # the first complaint by name, whichever thread comes upon one first
        list(threads.map(lambda name: _verify_file(folder / name, manifest.files[name]), names))
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        if name not in manifest.files:
            raise BadCheckpoint(f'"{folder / MANIFEST_FILE}" names no "{name}"')
        _verify_header(folder / name)
    return manifest


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify_file(path: Path, expected: File) -> None:
    if not path.is_file():
        raise BadCheckpoint(f'"{path}" is missing')
    size = path.stat().st_size
    if size != expected.bytes:
        raise BadCheckpoint(f'"{path}" has {size} bytes, its manifest says {expected.bytes}')
    found = sha256(path)
    if found != expected.sha256:
        raise BadCheckpoint(
            f'"{path}" has sha256 {found[:16]}..., its manifest says {expected.sha256[:16]}...: '
            "its content changed after it was written"
        )


def _verify_header(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length))
            tensors = [value for key, value in header.items() if key != "__metadata__"]
            end = max(tensor["data_offsets"][1] for tensor in tensors)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise BadCheckpoint(f'"{path}" has no readable safetensors header') from None
    if 8 + length + end != path.stat().st_size:
        raise BadCheckpoint(f'"{path}" ends elsewhere than its safetensors header says')
