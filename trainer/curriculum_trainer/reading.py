"""The texts of a file, from any place in it on: plain text, JSON lines or a Parquet column.

Files are streamed: a line or a batch of rows at a time. What is no text is handed on as a bad
record that names its file, its line, what stands there and what to do.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from curriculum_trainer import failures
from curriculum_trainer.texts import Unit

JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
COMPRESSED = (".gz", ".zst")
PARQUET_ROWS = 1024
"""Rows that are held at once; a row group may hold millions."""

_CHUNK_BYTES = 1 << 22
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Fields:
    """Where a record's text stands."""

    field: str
    column: str


@dataclass(frozen=True, slots=True)
class Record:
    """One text, or why there is none; and where its file goes on after it."""

    text: str | None
    at: int
    """Bytes of plain JSON lines, rows of Parquet, 1 for a whole file."""

    number: int
    """Lines, rows or files up to here."""

    read: int
    """About how many of the unit's bytes are read."""

    problem: str = ""


def records(unit: Unit, *, at: int, number: int, fields: Fields) -> Iterator[Record]:
    """The unit's records from `at` on, `number` of which are done."""
    path = unit.files[0]
    if _is_json_lines(path):
        return _json_lines(path, at=at, number=number, field=fields.field)
    if path.suffix == PARQUET:
        return _parquet(path, at=at, column=fields.column)
    return _whole(unit) if at == 0 else iter(())


def holds_documents(path: Path) -> bool:
    """Whether a file holds documents of its own, which nothing may join."""
    return _is_json_lines(path) or path.suffix == PARQUET


def _is_json_lines(path: Path) -> bool:
    plain = path.with_suffix("") if path.suffix in COMPRESSED else path
    return plain.suffix in JSON_LINES


def _whole(unit: Unit) -> Iterator[Record]:
    """All of the unit's files as one text; an empty file adds nothing, not even a line's end."""
    texts = []
    for number, path in enumerate(unit.files, 1):
        data = path.read_bytes()
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            problem = _bad(path, f"line {line}", f"byte 0x{data[error.start]:02x} is not UTF-8")
            yield Record(None, at=0, number=number, read=0, problem=problem)
            continue
        if text.strip():
            texts.append(text.replace("\r\n", "\n").replace("\r", "\n"))
    yield Record("\n".join(texts), at=1, number=len(unit.files), read=unit.num_bytes)


def _json_lines(path: Path, *, at: int, number: int, field: str) -> Iterator[Record]:
    with _opened(path) as (lines, raw):
        try:
            _skip(lines, at)
            for line in lines:
                at += len(line)
                number += 1
                text, problem = _json_text(line, field)
                if problem:
                    problem = _bad(path, f"line {number}", problem)
                yield Record(text, at=at, number=number, read=raw.tell(), problem=problem)
        except (EOFError, OSError, zlib.error) as error:
            raise failures.data_error(
                f'"{path}" cannot be read after line {number}: {error}; fetch it again'
            ) from error


def _json_text(line: bytes, field: str) -> tuple[str | None, str]:
    if not line.strip():
        return "", ""
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        return None, f"byte 0x{line[error.start]:02x} is not UTF-8"
    except ValueError as error:
        return None, f"{_shown(line.decode(errors='replace'))} is not JSON ({error})"
    if not isinstance(record, dict):
        return None, f"{_shown(json.dumps(record))} is no JSON object"
    if field not in record:
        known = ", ".join(f'"{name}"' for name in record) or "none"
        return None, f'no field "{field}", it has {_shown(known)}: name one with --field'
    return _text(record[field], f'field "{field}"')


def _parquet(path: Path, *, at: int, column: str) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise failures.data_error(f'"{path}" is no readable Parquet file: {error}') from error
    with file:
        _check_column(path, file.schema_arrow, column)
        size, rows = path.stat().st_size, file.metadata.num_rows
        first = 0
        for group in range(file.num_row_groups):
            held = file.metadata.row_group(group).num_rows
            if first + held > at:
                number = first
                for value in _values(path, file, group, column):
                    number += 1
                    if number <= at:
                        continue
                    text, problem = _text(value, f'column "{column}"')
                    if problem:
                        problem = _bad(path, f"row {number}", problem)
                    read = size * number // rows
                    yield Record(text, at=number, number=number, read=read, problem=problem)
            first += held


def _values(path: Path, file: Any, group: int, column: str) -> Iterator[Any]:
    import pyarrow as pa

    try:
        for batch in file.iter_batches(PARQUET_ROWS, row_groups=[group], columns=[column]):
            for value in batch.column(0).cast(pa.large_binary()):
                yield value.as_py()
    except (pa.ArrowException, OSError) as error:
        raise failures.data_error(
            f'"{path}" cannot be read in row group {group}: {error}; fetch it again'
        ) from error


def _check_column(path: Path, schema: Any, column: str) -> None:
    import pyarrow as pa

    if column not in schema.names:
        known = ", ".join(f'"{name}"' for name in schema.names)
        raise failures.data_error(
            f'"{path}" has no column "{column}", it has {known}: name one with --column'
        )
    kind = schema.field(column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise failures.data_error(
            f'"{path}": column "{column}" holds {kind}, not text: name another with --column'
        )


def _text(value: Any, where: str) -> tuple[str | None, str]:
    """A value as text that has UTF-8, or what is wrong with it."""
    if isinstance(value, bytes):
        try:
            return value.decode(), ""
        except UnicodeDecodeError as error:
            return None, f"{where}: byte 0x{value[error.start]:02x} is not UTF-8"
    if not isinstance(value, str):
        return None, f"{where} is {_shown(json.dumps(value))}, not text"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])
        return None, f"{where} holds half a surrogate pair ({half}), which no UTF-8 has"
    return value, ""


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file's own lines, and the bytes that they are read from."""
    with path.open("rb") as raw:
        if path.suffix == ".gz":
            with BufferedReader(gzip.GzipFile(fileobj=raw)) as lines:
                yield lines, raw
        elif path.suffix == ".zst":
            import pyarrow as pa

            with BufferedReader(pa.CompressedInputStream(raw, "zstd")) as lines:
                yield lines, raw
        else:
            yield raw, raw


def _skip(lines: IO[bytes], num_bytes: int) -> None:
    """Go past what was read before; what is compressed has to be read again for it."""
    if lines.seekable():
        lines.seek(num_bytes)
        return
    while num_bytes:
        num_bytes -= len(lines.read(min(num_bytes, _CHUNK_BYTES))) or num_bytes


def _bad(path: Path, place: str, problem: str) -> str:
    return f'"{path}" {place}: {problem}; mend it, or leave bad records out with --skip-bad'


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."
