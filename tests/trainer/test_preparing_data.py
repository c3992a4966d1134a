"""Preparing a source: any format, killed at any moment, and refused where it would be wrong."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from curriculum_trainer import filling, prepare, reading, shards, tokenizing, unfinished
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.prepare import Options
from curriculum_trainer.source import Source
from curriculum_trainer.tokenizing import Encoder

from .forms import TEXTS, as_gzip, as_json_lines, as_parquet, as_text, as_zstandard, json_lines


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches, shards and savings so small that there are many of each."""
    monkeypatch.setattr(filling, "BATCH_BYTES", 300)
    monkeypatch.setattr(filling, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(shards, "WAITING_TOKENS", 50)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 333)
    monkeypatch.setattr(prepare, "BATCH_PAIRS", 60)
    monkeypatch.setattr(reading, "PARQUET_ROWS", 3)


FORMATS = [as_text, as_json_lines, as_gzip, as_zstandard, as_parquet]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_texts_it_holds(
    options: Callable[..., Options], data: Path, tmp_path: Path, form: Callable[[Path], Path]
) -> None:
    made = options(form(tmp_path / "in" if form is as_text else tmp_path))
    prepare.prepare(made)
    source = Source(made.output, "made")
    encoder = Encoder(data / "tokenizer")

    found = [source.document(number).tolist() for number in range(source.index.documents)]
    assert found == [[*encoder.encode(text), encoder.end] for text in TEXTS]


def _everything(tmp_path: Path) -> tuple[Path, ...]:
    folder = as_text(tmp_path / "in")
    return folder, *(form(tmp_path) for form in FORMATS[1:])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"tokenizer": "train:280"}, id="trained"),
        pytest.param({"pairs": (4, 4), "seed": 3}, id="pairs"),
        pytest.param({"limit_bytes": 4000}, id="limited"),
    ],
)
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    options: Callable[..., Options], tmp_path: Path, changes: dict[str, Any]
) -> None:
    """A child is killed at its n-th flush, rename or removal, for many n; then one finishes."""
    inputs = _everything(tmp_path)
    whole = options(*inputs, output="whole/source", **changes)
    prepare.prepare(whole)
    expected = _bytes(whole.output.parent)
    assert len(expected) > 4

    kills = 0
    for moment in _growing():
        broken = options(*inputs, output=f"broken-{moment}/source", **changes)
        if not _killed(broken, moment):
            break
        kills += 1
        _killed(broken, moment + 3)
        prepare.prepare(broken)
        assert _bytes(broken.output.parent) == expected, f"killed at moment {moment}"
    assert kills > 8


def _growing() -> Iterator[int]:
    """1 to 6, then ever wider apart."""
    moment = 0
    for turn in count():
        moment += 1 if turn < 6 else 3 * turn
        yield moment


def _killed(options: Options, moment: int) -> bool:
    """Whether a process that dies at this moment, its buffers lost, died before it was done."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            _die_at(moment)
            prepare.prepare(options)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 9


def _die_at(moment: int) -> None:
    seen = count(1)

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **named: Any) -> Any:
            if next(seen) == moment:
                os._exit(9)
            return call(*arguments, **named)

        return instead

    os.fsync = deadly(os.fsync)
    for name in ("rename", "unlink"):
        setattr(Path, name, deadly(getattr(Path, name)))


def _bytes(folder: Path) -> dict[str, bytes]:
    """What the sources of a folder hold, without how they were made."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != unfinished.STATE_FILE
    }


@pytest.mark.usefixtures("small")
def test_a_full_disk_costs_nothing_that_was_done(
    options: Callable[..., Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = options(as_json_lines(tmp_path))
    flush, flushed = os.fsync, count(1)

    def full(handle: int) -> None:
        if next(flushed) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            prepare.prepare(made)
    state = unfinished.load(made.output, made.identity)
    assert state is not None
    assert state.written.documents > 0
    prepare.prepare(made)

    whole = options(tmp_path / "all.jsonl", output="whole")
    prepare.prepare(whole)
    assert _bytes(made.output) == _bytes(whole.output)


@pytest.mark.parametrize("changes", [{}, {"pairs": (4, 4)}])
def test_done_again_it_does_nothing(
    options: Callable[..., Options], tmp_path: Path, changes: dict[str, Any]
) -> None:
    made = options(as_text(tmp_path / "in"), **changes)
    first = prepare.prepare(made)
    before = {path: path.stat().st_mtime_ns for path in made.output.iterdir()}

    assert prepare.prepare(made) == first
    assert {path: path.stat().st_mtime_ns for path in made.output.iterdir()} == before


@pytest.mark.parametrize("done", [True, False])
def test_other_options_are_refused_and_taken_afresh(
    options: Callable[..., Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    lines = as_json_lines(tmp_path)
    made = options(lines)
    if done:
        prepare.prepare(made)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(shards.ShardWriter, "finish", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                prepare.prepare(made)
    folder = made.output

    with pytest.raises(PhaseFailure) as refused:
        prepare.prepare(options(lines, limit_bytes=100))
    assert refused.value.message == (
        f'"{folder}" was begun with --limit-bytes "", now it is "100": give the same options, '
        "another --output, or start anew with --fresh"
    )
    assert prepare.prepare(options(lines, limit_bytes=100, fresh=True)).index.documents < 40


def _interrupted(_: object) -> None:
    raise KeyboardInterrupt


def test_inputs_that_changed_are_refused(options: Callable[..., Options], tmp_path: Path) -> None:
    lines = as_json_lines(tmp_path)
    made = options(lines)
    prepare.prepare(made)
    lines.write_bytes(json_lines(TEXTS[:5]))

    with pytest.raises(PhaseFailure, match="are others now, or changed since"):
        prepare.prepare(made)


@pytest.mark.parametrize("done", [True, False])
def test_a_tokenizer_that_changed_in_place_is_refused(
    options: Callable[..., Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    """Its folder has the same name, and every token would be another."""
    inputs = as_text(tmp_path / "in")
    folder = tmp_path / "tokenizer"
    tokenizing.train(["a text to train on"], vocab_size=260, folder=folder)
    asked = options(inputs, tokenizer=str(folder))
    if done:
        prepare.prepare(asked)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(shards.ShardWriter, "finish", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                prepare.prepare(asked)
    tokenizing.train(["another text"], vocab_size=262, folder=folder)

    with pytest.raises(PhaseFailure, match="another tokenizer than"):
        prepare.prepare(asked)
    assert prepare.prepare(replace(asked, fresh=True)).index.vocab_size == 262


def test_a_tokenizer_that_others_may_need_is_not_trained_over(
    options: Callable[..., Options], tmp_path: Path
) -> None:
    lines = as_json_lines(tmp_path)
    prepare.prepare(options(lines, output="one", tokenizer="train:280"))
    before = (tmp_path / "out/tokenizer/tokenizer.json").read_bytes()

    with pytest.raises(PhaseFailure, match="holds a tokenizer already"):
        prepare.prepare(options(lines, output="two", tokenizer="train:290"))
    assert (tmp_path / "out/tokenizer/tokenizer.json").read_bytes() == before


def test_two_at_once_in_one_folder_are_refused(
    options: Callable[..., Options], tmp_path: Path
) -> None:
    made = options(as_json_lines(tmp_path))
    with unfinished.held(made.output):
        with pytest.raises(PhaseFailure, match='another "prepare" is at work'):
            prepare.prepare(made)
    prepare.prepare(made)


def test_a_tokenizer_set_to_cut_and_fill_up_does_neither(
    options: Callable[..., Options], data: Path, tmp_path: Path
) -> None:
    """Chat models are published so; a batch's texts would all get one length."""
    cutting = tmp_path / "cutting"
    cutting.mkdir()
    encoder = Encoder(data / "tokenizer")
    encoder.tokenizer.enable_truncation(8)
    encoder.tokenizer.enable_padding(length=200)
    encoder.tokenizer.save(str(cutting / "tokenizer.json"))
    lines = as_json_lines(tmp_path)

    cut = prepare.prepare(options(lines, tokenizer=str(cutting)))
    assert cut.index.tokens == prepare.prepare(options(lines, output="other")).index.tokens
