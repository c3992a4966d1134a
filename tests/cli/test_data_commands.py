"""`curriculum data` makes and checks sources, and says in one line what is wrong."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curriculum_cli import data
from curriculum_cli.main import app

LINES = "".join(json.dumps({"text": f"number {n} of some"}) + "\n" for n in range(50))


def _prepare(folder: Path, *more: str) -> list[str]:
    (folder / "a.jsonl").write_text(LINES)
    (folder / "b.jsonl").write_text(LINES)
    inputs = ["--input", str(folder / "a.jsonl"), str(folder / "b.jsonl")]
    return ["data", "prepare", *inputs, "--tokenizer", "train:270",
            "--output", str(folder / "out/web"), *more]  # fmt: skip


def test_a_source_is_prepared_and_verified(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, _prepare(tmp_path))
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith(f"{tmp_path}/out/web: ")
    assert made.stdout.endswith(" tokens in 100 documents\n")

    checked = CliRunner().invoke(app, ["data", "verify", str(tmp_path / "out/web")])
    assert checked.exit_code == 0, checked.output
    assert [line.split()[:2] for line in checked.stdout.splitlines()] == [
        ["PASS", f"{tmp_path}/out/web/{name}"]
        for name in ("index.json", "tokens-00000.bin", "documents.bin")
    ]


def test_one_harmed_source_of_two_fails_the_command(tmp_path: Path) -> None:
    CliRunner().invoke(app, _prepare(tmp_path))
    tokens = tmp_path / "out/web/tokens-00000.bin"
    tokens.write_bytes(b"\0" + tokens.read_bytes()[1:])

    checked = CliRunner().invoke(
        app, ["data", "verify", str(tmp_path / "out/web"), str(tmp_path / "none")]
    )
    assert checked.exit_code == 1
    assert [line.split()[0] for line in checked.stdout.splitlines()] == [
        "PASS", "FAIL", "PASS", "FAIL",
    ]  # fmt: skip


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, _prepare(tmp_path, "--field", "body"))

    assert made.exit_code == 1
    assert made.stderr.splitlines()[-1] == (
        f'curriculum data prepare: "{tmp_path}/a.jsonl" line 1: no field "body", it has "text": '
        "name one with --field; mend it, or leave bad records out with --skip-bad"
    )


def test_pairs_that_are_none_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, _prepare(tmp_path, "--pairs", "64"))

    assert made.exit_code == 1
    assert '--pairs "64": write PROMPT:COMPLETION, for example 64:64' in made.stderr
    assert not (tmp_path / "out").exists()


def test_an_interruption_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curriculum_trainer import filling

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(filling, "fill", interrupted)
        made = CliRunner().invoke(app, _prepare(tmp_path))
    assert made.exit_code == 130
    assert "interrupted; the same command goes on from here" in made.stderr
    assert CliRunner().invoke(app, _prepare(tmp_path)).exit_code == 0


def test_without_a_terminal_progress_is_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "LINE_SECONDS", 0.0)
    made = CliRunner().invoke(app, _prepare(tmp_path))

    lines = made.stderr.splitlines()
    assert lines[0] == "training tokenizer: 100.0%, 0.0 MB of text, 100 documents, 0 tokens"
    assert lines[1].startswith("tokenizing: 100.0%, 0.0 MB of text, 100 documents, ")
    assert "\x1b" not in made.stderr


def test_in_a_terminal_progress_is_a_bar(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "curriculum_cli.main", *_prepare(tmp_path)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "150"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True
    ) as program:
        os.close(theirs)
        shown = _read(ours).decode()
        assert program.stdout is not None
        said = program.stdout.read()

    assert program.returncode == 0, shown
    assert "tokenizing" in shown
    assert "━" in shown
    assert "100 documents" in shown
    # what a script reads holds nothing of the bar
    assert said.startswith(f"{tmp_path}/out/web: ")


def _read(handle: int) -> bytes:
    read = b""
    try:
        while chunk := os.read(handle, 65536):
            read += chunk
    except OSError:  # Linux's way to say that the other end is closed
        pass
    finally:
        os.close(handle)
    return read


def test_no_torch_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from curriculum_cli.main import app;"
        f"a = CliRunner().invoke(app, {_prepare(tmp_path)!r});"
        f"b = CliRunner().invoke(app, ['data', 'verify', {str(tmp_path / 'out/web')!r}]);"
        "print(a.exit_code, b.exit_code, 'torch' in sys.modules)"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert seen.stdout.strip() == "0 0 False"
