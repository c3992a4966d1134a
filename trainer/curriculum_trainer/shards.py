"""Writing one source: token shards, document offsets, and the index that makes it whole, last."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from curriculum_api.wire import Wire
from curriculum_trainer import failures
from curriculum_trainer.source import DOCUMENTS_FILE, INDEX_FILE, Index, Kind, ShardFile

SHARD_TOKENS = 1 << 28
"""Tokens of one shard file; a document may go over its end into the next."""

WAITING_TOKENS = 1 << 20
"""Tokens that are gathered before they are written."""

_CHUNK_BYTES = 1 << 22


class Written(Wire):
    """What of an unfinished source is on the disk for good."""

    files: tuple[ShardFile, ...] = ()
    """The full shards."""

    open_bytes: int = 0
    """Bytes of the shard after them."""

    documents: int = 0
    tokens: int = 0


class ShardWriter:
    """A source in the making; until `finish` the folder does not count as one.

    It goes on after what `written` says, and drops whatever lies behind that.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: Kind,
        vocab_size: int,
        tokenizer_sha256: str,
        written: Written | None = None,
    ) -> None:
        done = written or Written()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX_FILE).unlink(missing_ok=True)
        known = len(done.files) + bool(done.open_bytes)
        for old in folder.glob("tokens-*.bin"):
            if old.name not in {_shard_name(number) for number in range(known)}:
                old.unlink()
        self._folder = folder
        self._kind = kind
        self._vocab_size = vocab_size
        self._tokenizer_sha256 = tokenizer_sha256
        self._dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        self._full = list(done.files)
        self._open: _HashedFile | None = None
        if done.open_bytes:
            self._open = _HashedFile(folder / _shard_name(len(self._full)), done.open_bytes)
        size = 8 * (done.documents + 1) if written and done.documents else 0
        self._offsets = _HashedFile(folder / DOCUMENTS_FILE, size)
        self._documents = done.documents
        self._tokens = done.tokens
        self._waiting: list[NDArray[np.unsignedinteger]] = []
        self._waiting_ends: list[int] = [] if size else [0]
        self._waiting_from = done.tokens

    @property
    def documents(self) -> int:
        """Documents so far."""
        return self._documents

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return self._tokens

    def add(self, tokens: Sequence[int]) -> None:
        """Append one document."""
        self._waiting.append(np.asarray(tokens, dtype=self._dtype))
        self._tokens += len(tokens)
        self._documents += 1
        self._waiting_ends.append(self._tokens)
        if self._tokens - self._waiting_from >= WAITING_TOKENS:
            self._write()

    def save(self) -> Written:
        """Bring everything to the disk, so that another writer may go on from here."""
        self._write()
        self._offsets.sync()
        if self._open is not None:
            self._open.sync()
        return Written(
            files=tuple(self._full),
            open_bytes=self._open.bytes if self._open is not None else 0,
            documents=self._documents,
            tokens=self._tokens,
        )

    def finish(self) -> Index:
        """Write the offsets and the index."""
        self._write()
        if self._open is not None or not self._full:
            self._full.append((self._open or self._next_shard()).close())
        index = Index(
            kind=self._kind,
            dtype="uint16" if self._dtype.itemsize == 2 else "uint32",
            tokens=self._tokens,
            documents=self._documents,
            vocab_size=self._vocab_size,
            tokenizer_sha256=self._tokenizer_sha256,
            token_files=tuple(self._full),
            document_file=self._offsets.close(),
        )
        write_json(self._folder / INDEX_FILE, index)
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in (self._open, self._offsets):
            if file is not None:
                file.release()

    def _write(self) -> None:
        """Hand what waits to the files, over as many shards as it takes."""
        self._offsets.write(np.asarray(self._waiting_ends, dtype="<i8").tobytes())
        data = np.concatenate(self._waiting) if self._waiting else np.zeros(0, self._dtype)
        self._waiting, self._waiting_ends, self._waiting_from = [], [], self._tokens
        while len(data):
            file = self._open or self._next_shard()
            room = SHARD_TOKENS - file.bytes // self._dtype.itemsize
            file.write(data[:room].tobytes())
            if len(data) >= room:
                self._full.append(file.close())
                self._open = None
            data = data[room:]

    def _next_shard(self) -> "_HashedFile":
        self._open = _HashedFile(self._folder / _shard_name(len(self._full)))
        return self._open


def write_json(path: Path, document: BaseModel) -> None:
    """Write a document so that its file is whole or as it was before, whatever happens."""
    part = path.with_name(f".tmp-{path.name}")
    with part.open("w") as file:
        file.write(document.model_dump_json(by_alias=True, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _shard_name(number: int) -> str:
    return f"tokens-{number:05d}.bin"


class _HashedFile:
    """A file that knows its size and digest; it goes on after its first `keep` bytes."""

    def __init__(self, path: Path, keep: int = 0) -> None:
        self._path = path
        self._file: BinaryIO = path.open("r+b" if keep else "wb")
        self._hash = hashlib.sha256()
        self.bytes = 0
        while self.bytes < keep:
            chunk = self._file.read(min(_CHUNK_BYTES, keep - self.bytes))
            if not chunk:
                self._file.close()
                raise failures.data_error(
                    f'"{path}" has {self.bytes} bytes, {keep} were written: start with --fresh'
                )
            self._hash.update(chunk)
            self.bytes += len(chunk)
        self._file.truncate(keep)
        self._file.seek(keep)

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> ShardFile:
        self.sync()
        self._file.close()
        return ShardFile(name=self._path.name, bytes=self.bytes, sha256=self._hash.hexdigest())

    def release(self) -> None:
        self._file.close()
