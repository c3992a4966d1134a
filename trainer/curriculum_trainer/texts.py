"""Finding texts: files, or the files of a folder joined to one long document. Reads only."""

import sysconfig
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

STDLIB = "python:stdlib"
"""Stands for the source of Python's standard library, which is on every machine."""

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib"}


def find(inputs: Sequence[str], *, pattern: str) -> list[Path]:
    """Every file that matches below the inputs, sorted by folder and name."""
    found: set[Path] = set()
    for text in inputs:
        root = resolve(text)
        if root.is_file():
            found.add(root)
        for path in root.rglob(pattern):
            inside = path.relative_to(root).parts[:-1]
            if path.is_file() and not SKIPPED_FOLDERS.intersection(inside):
                found.add(path)
    return sorted(found, key=lambda path: (path.parent, path.name))


def resolve(text: str) -> Path:
    """The path that an input names; `python:stdlib/json` is a package of the library."""
    if text == STDLIB or text.startswith(STDLIB + "/"):
        return Path(sysconfig.get_path("stdlib")) / text[len(STDLIB) + 1 :]
    return Path(text)


def documents(files: Sequence[Path], *, join: bool, limit_bytes: int | None) -> Iterator[str]:
    """One text per file, or per folder, until the limit is reached; empty files are left out."""
    taken = 0
    for group in _groups(files, join=join):
        texts = [text for text in map(read, group) if text.strip()]
        if not texts:
            continue
        if limit_bytes is not None and taken >= limit_bytes:
            return
        document = "\n".join(texts)
        taken += len(document.encode())
        yield document


def read(path: Path) -> str:
    """A file as text; bytes that are no UTF-8 become replacement characters."""
    return path.read_text(encoding="utf-8", errors="replace")


def _groups(files: Sequence[Path], *, join: bool) -> Iterator[list[Path]]:
    if not join:
        yield from ([path] for path in files)
        return
    for _, group in groupby(files, key=lambda path: path.parent):
        yield list(group)
