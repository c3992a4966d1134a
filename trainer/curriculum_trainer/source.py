"""Reading one source: a folder of token shards with a document index. Never writes.

    index.json       what follows, with sizes and digests
    tokens-00000.bin tokens of all documents, one after another, little-endian
    documents.bin    int64 offsets of the documents' starts, and the end

In a source of text every document ends with the tokenizer's end token. In a source of preference
pairs the documents come in threes: prompt, chosen, rejected.
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from curriculum_api.wire import Wire
from curriculum_trainer import failures

INDEX_FILE = "index.json"
DOCUMENTS_FILE = "documents.bin"
TOKENIZER_FILE = "tokenizer.json"
PIECES_PER_PAIR = 3
"""Prompt, chosen and rejected: documents of a source that make one pair."""


class Kind(StrEnum):
    """What the documents of a source are."""

    TEXT = "text"
    PREFERENCE = "preference"


class ShardFile(Wire):
    """One file of a source."""

    name: str
    bytes: int
    sha256: str


class Index(Wire):
    """What `index.json` says."""

    version: Literal[1] = 1
    kind: Kind
    dtype: Literal["uint16", "uint32"]
    tokens: int
    documents: int
    vocab_size: int
    tokenizer_sha256: str
    token_files: Annotated[tuple[ShardFile, ...], Field(min_length=1)]
    document_file: ShardFile


class Source:
    """One opened source; its files are mapped, not read."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.index = read_index(folder)
        for file in (*self.index.token_files, self.index.document_file):
            _check_size(folder / file.name, file.bytes)
        self.offsets = _mapped(folder / DOCUMENTS_FILE, "<i8")
        dtype = np.dtype(self.index.dtype).newbyteorder("<")
        self._shards = [_mapped(folder / file.name, dtype) for file in self.index.token_files]
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        _check_counts(self)

    def tokens(self, start: int, end: int) -> NDArray[np.int64]:
        """Tokens `start` to `end` (exclusive) of the whole source, over its shards."""
        number = int(np.searchsorted(self._ends, start, side="right"))
        if number == len(self._shards) or start >= end:
            return np.zeros(0, np.int64)
        shard = self._shards[number]
        base = int(self._ends[number]) - len(shard)
        here = shard[start - base : end - base].astype(np.int64)
        if end <= base + len(shard):
            return here
        return np.concatenate([here, self.tokens(base + len(shard), end)])

    def document(self, number: int) -> NDArray[np.int64]:
        """The tokens of one document."""
        return self.tokens(int(self.offsets[number]), int(self.offsets[number + 1]))

    def starts_document(self, offset: int) -> bool:
        """Whether a document starts, or the last one ends, at `offset`."""
        place = int(np.searchsorted(self.offsets, offset))
        return place < len(self.offsets) and int(self.offsets[place]) == offset

    def document_lengths(self, start: int, end: int) -> tuple[int, ...]:
        """Lengths of the pieces into which document starts cut tokens `start` to `end`."""
        first = int(np.searchsorted(self.offsets, start, side="right"))
        last = int(np.searchsorted(self.offsets, end, side="left"))
        cuts = np.concatenate([[start], self.offsets[first:last], [end]])
        lengths = np.diff(cuts)
        # an empty document repeats its offset and must not become a piece of length zero
        return tuple(lengths[lengths > 0].tolist())


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    """A file's numbers, read when they are looked at; a plain view, which NumPy handles faster."""
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)


def read_index(folder: Path) -> Index:
    """What a source's folder holds, by its own account."""
    path = folder / INDEX_FILE
    try:
        return Index.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        raise failures.data_error(
            f'no source at "{folder}": "{INDEX_FILE}" is missing; prepare it first'
        ) from None
    except (OSError, ValueError, ValidationError) as error:
        raise failures.data_error(f'"{path}" cannot be read: {error}') from error


def _check_size(path: Path, expected: int) -> None:
    try:
        actual = path.stat().st_size
    except OSError:
        raise failures.data_error(f'"{path}" is missing; prepare the source again') from None
    if actual != expected:
        raise failures.data_error(
            f'"{path}" has {actual} bytes, its index says {expected}; prepare the source again'
        )


def _check_counts(source: Source) -> None:
    index = source.index
    held = int(source._ends[-1])
    if held != index.tokens or len(source.offsets) != index.documents + 1:
        raise failures.data_error(
            f'"{source.folder}" holds {held} tokens in {len(source.offsets) - 1} documents, its '
            f"index says {index.tokens} in {index.documents}; prepare the source again"
        )
    if index.kind is Kind.PREFERENCE and index.documents % PIECES_PER_PAIR:
        raise failures.data_error(
            f'"{source.folder}": {index.documents} documents are not prompt, chosen and rejected '
            "in threes; prepare the source again"
        )
