"""What cannot be prepared is named in one line: file, line, what stands there, the way out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from curriculum_trainer import prepare
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.prepare import Options

from .forms import TEXTS, as_gzip, as_json_lines, as_parquet, as_text, as_zstandard, json_lines

BAD = [
    pytest.param(
        b'{"text": "a"}\n{"text": \n', '"x.jsonl" line 2: {"text": is not JSON (', id="cut"
    ),
    pytest.param(b'\n["text"]\n', 'line 2: ["text"] is no JSON object', id="list"),
    pytest.param(
        b'{"body": "a", "id": 3}\n',
        'line 1: no field "text", it has "body", "id": name one with --field',
        id="field",
    ),
    pytest.param(b'{"text": null}\n', 'line 1: field "text" is null, not text', id="null"),
    pytest.param(b'{"text": "\xe9"}\n', "line 1: byte 0xe9 is not UTF-8", id="latin"),
    pytest.param(
        b'{"text": "\\ud83d"}\n',
        "line 1: field \"text\" holds half a surrogate pair ('\\ud83d'), which no UTF-8 has",
        id="surrogate",
    ),
]


@pytest.mark.parametrize(("content", "said"), BAD)
def test_a_bad_line_is_named_with_its_value_and_may_be_left_out(
    options: Callable[..., Options],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.jsonl").write_bytes(content + json_lines(TEXTS[:3]))

    with pytest.raises(PhaseFailure) as refused:
        prepare.prepare(options("x.jsonl"))
    message = refused.value.message
    assert message.startswith('"x.jsonl" line ')
    assert said in message
    assert message.endswith("; mend it, or leave bad records out with --skip-bad")
    assert "\n" not in message
    # what was read before it is kept: the run that leaves it out goes on
    made = prepare.prepare(options("x.jsonl", skip_bad=True))
    assert made.skipped == 1
    assert made.index.documents == 3 + content.count(b'"a"}\n')


def test_bytes_that_are_no_utf_8_are_named_in_a_text_file(
    options: Callable[..., Options], tmp_path: Path
) -> None:
    folder = as_text(tmp_path / "in")
    (folder / "100.py").write_bytes("one\ntwo caf\u00e9\n".encode("latin-1"))

    with pytest.raises(PhaseFailure) as refused:
        prepare.prepare(options(folder))
    assert refused.value.message == (
        f'"{folder}/100.py" line 2: byte 0xe9 is not UTF-8; mend it, or leave bad records out '
        "with --skip-bad"
    )


def test_a_bad_value_of_parquet_is_named_by_its_row(
    options: Callable[..., Options], tmp_path: Path
) -> None:
    broken = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xe9")
    )
    column = pa.chunked_array([pa.array(["a", None]), broken])
    parquet.write_table(pa.table({"text": column}), tmp_path / "x.parquet", row_group_size=2)

    with pytest.raises(PhaseFailure, match='row 2: column "text" is null, not text'):
        prepare.prepare(options(tmp_path / "x.parquet"))
    made = prepare.prepare(options(tmp_path / "x.parquet", skip_bad=True))
    assert (made.index.documents, made.skipped) == (1, 2)


def test_a_column_that_is_not_there_or_no_text_is_named(
    options: Callable[..., Options], tmp_path: Path
) -> None:
    path = as_parquet(tmp_path)
    with pytest.raises(PhaseFailure, match='no column "body", it has "id", "text": name one with'):
        prepare.prepare(options(path, column="body"))
    with pytest.raises(PhaseFailure, match='column "id" holds int64, not text'):
        prepare.prepare(options(path, output="other", column="id"))


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-20])
    return path


@pytest.mark.parametrize("form", [as_gzip, as_parquet, as_zstandard])
def test_a_cut_file_is_named(
    options: Callable[..., Options], tmp_path: Path, form: Callable[[Path], Path]
) -> None:
    path = _cut(form(tmp_path))

    with pytest.raises(PhaseFailure, match=f'"{path}" (cannot be read|is no readable)'):
        prepare.prepare(options(path))


NOTHING = [
    pytest.param(["no/such"], {}, '--input "no/such" does not exist', id="missing"),
    pytest.param(
        ["in"], {"pattern": "*.c"}, 'no file matches "*.c" below in: say which', id="none"
    ),
    pytest.param(["in/empty.txt"], {}, "holds no text: name files that are not empty", id="empty"),
    pytest.param(["in"], {"tokenizer": "train:9"}, "write train:VOCAB with VOCAB", id="vocabulary"),
    pytest.param(["in"], {"tokenizer": "in"}, 'no "tokenizer.json" in "in"', id="tokenizer"),
    pytest.param(["all.jsonl"], {"join": True}, "--join joins text files", id="join"),
    pytest.param(["in"], {"pairs": (900, 900)}, "at least 2 are needed", id="short"),
]


@pytest.mark.parametrize(("inputs", "changes", "said"), NOTHING)
def test_what_cannot_work_is_refused_in_one_line(
    options: Callable[..., Options],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: list[str],
    changes: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    as_text(Path("in"))
    Path("in/empty.txt").write_text(" \n")
    as_json_lines(Path())

    with pytest.raises(PhaseFailure) as refused:
        prepare.prepare(options(*inputs, **changes))
    assert said in refused.value.message
    assert "\n" not in refused.value.message
    assert not (options().output / "index.json").exists()
