"""Whether a source's files are as its index says, and hold what its documents need. Reads only.

Opening a source (`source`) looks at sizes and counts alone; this reads every byte once.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curriculum_trainer.failures import PhaseFailure, one_line
from curriculum_trainer.source import (
    INDEX_FILE,
    PIECES_PER_PAIR,
    Index,
    Kind,
    ShardFile,
    read_index,
)

_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one file; no problem means that it is as it should be."""

    path: Path
    holds: str
    problem: str = ""


Tell = Callable[[int], None]
"""Told how many more bytes were read."""


def audit(folder: Path, tell: Tell = lambda _: None) -> Iterator[Finding]:
    """One finding per file of a source, the index first."""
    path = folder / INDEX_FILE
    try:
        index = read_index(folder)
    except PhaseFailure as error:
        yield Finding(path, "", one_line(error.message, 300))
        return
    yield Finding(path, _summary(index), _counts(index))
    itemsize = np.dtype(index.dtype).itemsize
    for file in index.token_files:
        holds = f"{file.bytes // itemsize} tokens"
        yield Finding(folder / file.name, holds, _tokens(folder, file, index, tell))
    file = index.document_file
    holds = f"{index.documents} documents"
    yield Finding(folder / file.name, holds, _documents(folder, file, index, tell))


def num_bytes(folder: Path) -> int:
    """How many bytes an audit will read; none where there is no index."""
    try:
        index = read_index(folder)
    except PhaseFailure:
        return 0
    return sum(file.bytes for file in (*index.token_files, index.document_file))


def _summary(index: Index) -> str:
    return f"{index.kind}, {index.tokens} tokens in {index.documents} documents"


def _counts(index: Index) -> str:
    itemsize = np.dtype(index.dtype).itemsize
    held = sum(file.bytes for file in index.token_files)
    if held != index.tokens * itemsize:
        return f"it says {index.tokens} tokens, its files have {held} bytes, {itemsize} a token"
    if index.document_file.bytes != 8 * (index.documents + 1):
        return (
            f"it says {index.documents} documents, the file of their starts has "
            f"{index.document_file.bytes} bytes for {8 * (index.documents + 1)}"
        )
    if index.kind is Kind.PREFERENCE and index.documents % PIECES_PER_PAIR:
        return f"{index.documents} documents are not prompt, chosen and rejected in threes"
    return ""


def _tokens(folder: Path, file: ShardFile, index: Index, tell: Tell) -> str:
    dtype = np.dtype(index.dtype).newbyteorder("<")
    before = 0
    problem = ""

    def look(chunk: bytes) -> None:
        nonlocal before, problem
        numbers = np.frombuffer(chunk[: len(chunk) - len(chunk) % dtype.itemsize], dtype)
        if not problem and len(numbers) and int(numbers.max()) >= index.vocab_size:
            place = int(np.argmax(numbers >= index.vocab_size))
            problem = (
                f"token {before + place} of the file is {numbers[place]}, the vocabulary has "
                f"{index.vocab_size}"
            )
        before += len(numbers)

    return _read(folder / file.name, file, look, tell) or problem


def _documents(folder: Path, file: ShardFile, index: Index, tell: Tell) -> str:
    last, count = 0, 0
    problem = ""

    def look(chunk: bytes) -> None:
        nonlocal last, count, problem
        offsets = np.frombuffer(chunk[: len(chunk) - len(chunk) % 8], "<i8")
        steps = np.diff(offsets, prepend=last)
        if not problem and not count and len(offsets) and offsets[0] != 0:
            problem = f"the first document starts at {offsets[0]}, not at 0"
        if not problem and (steps < 0).any():
            place = int(np.argmax(steps < 0))
            problem = (
                f"document {count + place} starts at {offsets[place]}, before the one before it"
            )
        last = int(offsets[-1]) if len(offsets) else last
        count += len(offsets)

    broken = _read(folder / file.name, file, look, tell) or problem
    if not broken and last != index.tokens:
        return f"the last document ends at {last}, the tokens at {index.tokens}"
    return broken


def _read(path: Path, file: ShardFile, look: Callable[[bytes], None], tell: Tell) -> str:
    """Read a file once: what is wrong with its size or digest; `look` sees every chunk."""
    hashed = hashlib.sha256()
    try:
        size = path.stat().st_size
        if size != file.bytes:
            return f"it has {size} bytes, the index says {file.bytes}"
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                hashed.update(chunk)
                look(chunk)
                tell(len(chunk))
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if hashed.hexdigest() != file.sha256:
        return (
            f"it has sha256 {hashed.hexdigest()[:16]}..., the index says {file.sha256[:16]}...: "
            "its content changed after it was written"
        )
    return ""
