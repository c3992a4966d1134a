"""`audit` reads every byte of a source, and names what is not as it should be."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curriculum_trainer import audit, shards

from .corpus import VOCAB, write_source


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three documents over four shards."""
    monkeypatch.setattr(shards, "SHARD_TOKENS", 8)
    write_source(tmp_path / "web", [range(10), range(15), range(5)])
    return tmp_path / "web"


def _problems(folder: Path) -> dict[str, str]:
    return {found.path.name: found.problem for found in audit.audit(folder) if found.problem}


def _seal(folder: Path, **changes: Any) -> None:
    """Make the index agree with what the files hold now, so that only their content is wrong."""
    index = json.loads((folder / "index.json").read_text()) | changes
    for file in (*index["tokenFiles"], index["documentFile"]):
        data = (folder / file["name"]).read_bytes()
        file |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "index.json").write_text(json.dumps(index))


def test_a_sound_source_passes_file_by_file(source: Path) -> None:
    read = 0

    def tell(num_bytes: int) -> None:
        nonlocal read
        read += num_bytes

    found = list(audit.audit(source, tell))

    assert [(one.path.name, one.holds) for one in found] == [
        ("index.json", "text, 30 tokens in 3 documents"),
        *((f"tokens-{n:05d}.bin", f"{min(8, 30 - 8 * n)} tokens") for n in range(4)),
        ("documents.bin", "3 documents"),
    ]
    assert not any(one.problem for one in found)
    assert read == audit.num_bytes(source) == 2 * 30 + 8 * 4


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("name", ["tokens-00002.bin", "documents.bin"])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        pytest.param(_flip, "its content changed after it was written", id="flipped"),
        pytest.param(_cut, " bytes, the index says ", id="cut"),
        pytest.param(Path.unlink, "it is missing", id="missing"),
    ],
)
def test_a_harmed_file_fails_alone(
    source: Path, name: str, harm: Callable[[Path], None], said: str
) -> None:
    harm(source / name)
    found = _problems(source)

    assert list(found) == [name]
    assert said in found[name]


def test_a_token_outside_the_vocabulary_fails(source: Path) -> None:
    path = source / "tokens-00001.bin"
    tokens = np.fromfile(path, "<u2")
    tokens[5] = VOCAB
    tokens.tofile(path)
    _seal(source)

    assert _problems(source) == {
        path.name: f"token 5 of the file is {VOCAB}, the vocabulary has {VOCAB}"
    }


@pytest.mark.parametrize(
    ("offsets", "said"),
    [
        ([0, 12, 11, 30], "document 2 starts at 11, before the one before it"),
        ([1, 10, 25, 30], "the first document starts at 1, not at 0"),
        ([0, 10, 25, 29], "the last document ends at 29, the tokens at 30"),
    ],
)
def test_documents_that_do_not_follow_one_another_fail(
    source: Path, offsets: list[int], said: str
) -> None:
    np.asarray(offsets, "<i8").tofile(source / "documents.bin")
    _seal(source)

    assert _problems(source) == {"documents.bin": said}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": 31}, "it says 31 tokens, its files have 60 bytes, 2 a token"),
        ({"documents": 4}, "it says 4 documents, the file of their starts has 32 bytes for 40"),
        ({"documents": 4, "kind": "preference"}, "it says 4 documents, the file"),
    ],
)
def test_counts_that_do_not_add_up_fail(source: Path, changes: dict[str, Any], said: str) -> None:
    _seal(source, **changes)

    assert said in _problems(source)["index.json"]


def test_pairs_that_lack_a_document_fail(tmp_path: Path) -> None:
    write_source(tmp_path / "web", [range(4)] * 4)
    _seal(tmp_path / "web", kind="preference")

    assert _problems(tmp_path / "web") == {
        "index.json": "4 documents are not prompt, chosen and rejected in threes"
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, '"index.json" is missing; prepare it first'), ("{", "cannot be read: ")],
)
def test_a_folder_without_an_index_fails(source: Path, content: str | None, said: str) -> None:
    (source / "index.json").unlink()
    if content is not None:
        (source / "index.json").write_text(content)

    assert said in _problems(source)["index.json"]
    assert audit.num_bytes(source) == 0
