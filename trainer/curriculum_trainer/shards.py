"""Writing one source: token shards, document offsets, and the index that makes it whole, last."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from curriculum_trainer.source import DOCUMENTS_FILE, INDEX_FILE, Index, Kind, ShardFile

SHARD_TOKENS = 1 << 28
"""Tokens of one shard file; a document may go over its end into the next."""


class ShardWriter:
    """A source in the making; until `finish` the folder does not count as one."""

    def __init__(self, folder: Path, *, kind: Kind, vocab_size: int, tokenizer_sha256: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX_FILE).unlink(missing_ok=True)
        for old in folder.glob("tokens-*.bin"):
            old.unlink()
        self._folder = folder
        self._kind = kind
        self._vocab_size = vocab_size
        self._tokenizer_sha256 = tokenizer_sha256
        self._dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        self._offsets = [0]
        self._files: list[_HashedFile] = []
        self._room = 0

    def add(self, tokens: Sequence[int]) -> None:
        """Append one document."""
        data = np.asarray(tokens, dtype=np.dtype(self._dtype).newbyteorder("<"))
        self._offsets.append(self._offsets[-1] + len(data))
        while len(data):
            if not self._room:
                self._next_shard()
            part, data = data[: self._room], data[self._room :]
            self._files[-1].write(part.tobytes())
            self._room -= len(part)

    def finish(self) -> Index:
        """Write the offsets and the index."""
        if not self._files:
            self._next_shard()
        offsets = _HashedFile(self._folder / DOCUMENTS_FILE)
        offsets.write(np.asarray(self._offsets, dtype="<i8").tobytes())
        index = Index(
            kind=self._kind,
            dtype="uint16" if self._dtype == "uint16" else "uint32",
            tokens=self._offsets[-1],
            documents=len(self._offsets) - 1,
            vocab_size=self._vocab_size,
            tokenizer_sha256=self._tokenizer_sha256,
            token_files=tuple(file.close() for file in self._files),
            document_file=offsets.close(),
        )
        part = self._folder / f".tmp-{INDEX_FILE}"
        part.write_text(json.dumps(index.model_dump(mode="json", by_alias=True), indent=1) + "\n")
        part.rename(self._folder / INDEX_FILE)
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()

    def _next_shard(self) -> None:
        path = self._folder / f"tokens-{len(self._files):05d}.bin"
        self._files.append(_HashedFile(path))
        self._room = SHARD_TOKENS


class _HashedFile:
    """A file that knows its size and digest when it is closed."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._file: BinaryIO = path.open("wb")
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._bytes += len(data)

    def close(self) -> ShardFile:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return ShardFile(name=self._name, bytes=self._bytes, sha256=self._hash.hexdigest())
