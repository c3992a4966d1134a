"""Finding texts: which files the inputs name, in one order. Reads no content."""

import hashlib
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from curriculum_trainer import failures

STDLIB = "python:stdlib"
"""Stands for the source of Python's standard library, which is on every machine."""

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib"}
"""What of Python's library is no library: its tests, and what others installed beside it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is read in one go: one file, or the files of one folder, joined to one document."""

    files: tuple[Path, ...]
    stamps: tuple[tuple[int, int], ...]
    """Each file's bytes and the time of its last change, as they were found."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(size for size, _ in self.stamps)


def find(inputs: Sequence[str], *, pattern: str) -> list[Path]:
    """Every file that an input names or that matches below it, sorted by folder and name."""
    found: set[Path] = set()
    for text in inputs:
        root = resolve(text)
        skipped = SKIPPED_FOLDERS if is_stdlib(text) else set()
        if not root.exists():
            raise failures.data_error(f'--input "{text}" does not exist: name a file or a folder')
        if root.is_file():
            found.add(root)
        for path in root.rglob(pattern):
            inside = path.relative_to(root).parts[:-1]
            if path.is_file() and not skipped.intersection(inside):
                found.add(path)
    if not found:
        raise failures.data_error(
            f'no file matches "{pattern}" below {", ".join(inputs)}: say which do with --pattern, '
            'for example "*.jsonl"'
        )
    return sorted(found, key=lambda path: (path.parent, path.name))


def is_stdlib(text: str) -> bool:
    """Whether an input names Python's library or a package of it."""
    return text == STDLIB or text.startswith(STDLIB + "/")


def resolve(text: str) -> Path:
    """The path that an input names; `python:stdlib/json` is a package of the library."""
    if is_stdlib(text):
        return Path(sysconfig.get_path("stdlib")) / text[len(STDLIB) + 1 :]
    return Path(text)


def units(files: Sequence[Path], *, join: bool) -> list[Unit]:
    """The files one by one, or by folder."""
    if not join:
        return [_unit([file]) for file in files]
    return [_unit(group) for _, group in groupby(files, key=lambda path: path.parent)]


class Digest:
    """Which files the units are and when they changed, not what they hold; unit after unit."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._units = units
        self._hash = hashlib.sha256()
        self._done = 0

    def up_to(self, unit: int) -> str:
        """The digest of the units up to and with this one; never asked for one before the last."""
        for one in self._units[self._done : unit + 1]:
            for path, stamp in zip(one.files, one.stamps, strict=True):
                line = f"{path.absolute()}\0{stamp[0]}\0{stamp[1]}\n"
                self._hash.update(line.encode(errors="surrogateescape"))
        self._done = max(self._done, unit + 1)
        return self._hash.hexdigest()


def _unit(files: Iterable[Path]) -> Unit:
    own = tuple(files)
    about = [path.stat() for path in own]
    return Unit(files=own, stamps=tuple((one.st_size, one.st_mtime_ns) for one in about))
