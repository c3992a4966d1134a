"""Document lengths of prepared data, sampled: attention costs the sum of their squares."""

import sys
from array import array
from pathlib import Path, PurePosixPath

from curriculum_api.v1alpha1.curriculum import CurriculumSpec

DOCUMENTS = "documents.bin"
"""Offsets of a source's documents in tokens, little-endian, 8 bytes each; a last one ends it."""

WIDTH = 8
PARTS, PART = 32, 4096
"""Places that are read of a long file, and offsets at each."""


def lengths(data: Path, spec: CurriculumSpec) -> dict[str, list[int]]:
    """Lengths of a sample of each source's documents, by source.

    Raises:
        ValueError: a source is not there, or leads out of the folder.
        OSError: it cannot be read.
    """
    names = sorted({source.source for phase in spec.phases for source in phase.data})
    return {name: _of(data, name) for name in names}


def _of(data: Path, name: str) -> list[int]:
    if ".." in PurePosixPath(name).parts:
        raise ValueError(f'data source "{name}" leads out of the data folder: remove the ".."')
    path = data / name / DOCUMENTS
    if not path.is_file():
        raise ValueError(f'no prepared source "{name}" in "{data}": prepare it, or omit --data')
    count = path.stat().st_size // WIDTH
    found: list[int] = []
    with path.open("rb") as file:
        for start in _starts(count):
            file.seek(start * WIDTH)
            offsets = array("q", file.read(PART * WIDTH))
            if sys.byteorder == "big":
                offsets.byteswap()
            found.extend(
                after - before
                for before, after in zip(offsets, offsets[1:], strict=False)
                if after > before
            )
    if not found:
        raise ValueError(f'source "{name}" in "{data}" holds no documents')
    return found


def _starts(count: int) -> list[int]:
    """Where to read: everything of a short file, evenly spread parts of a long one."""
    if count <= PARTS * PART:
        return list(range(0, count, PART - 1))
    return [part * (count - PART) // (PARTS - 1) for part in range(PARTS)]
