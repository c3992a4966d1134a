"""The same few texts in every form that `prepare` reads."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

TEXTS = [f"def f{n}():\n    return {'é' * (n % 7)}{n}\n" for n in range(40)]


def as_text(folder: Path) -> Path:
    """A file each, in a folder that is made."""
    folder.mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        (folder / f"{number:03d}.py").write_text(text)
    return folder


def json_lines(texts: list[str] = TEXTS, field: str = "text") -> bytes:
    """A line each."""
    return "".join(json.dumps({"id": 1, field: text}) + "\n" for text in texts).encode()


def as_json_lines(folder: Path) -> Path:
    """One file, one of its lines blank."""
    path = folder / "all.jsonl"
    path.write_bytes(json_lines()[:700] + json_lines()[700:].replace(b"\n", b"\n\n", 1))
    return path


def as_gzip(folder: Path) -> Path:
    """The same lines in two members, as parallel compressors write them."""
    path = folder / "all.jsonl.gz"
    path.write_bytes(gzip.compress(json_lines(TEXTS[:9])) + gzip.compress(json_lines(TEXTS[9:])))
    return path


def as_zstandard(folder: Path) -> Path:
    """The same lines, compressed."""
    path = folder / "all.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(json_lines())
    return path


def as_parquet(folder: Path) -> Path:
    """One column of two, in row groups of seven."""
    path = folder / "all.parquet"
    table = pa.table({"id": list(range(40)), "text": TEXTS})
    parquet.write_table(table, path, row_group_size=7)
    return path
