"""`curriculum data`: make sources of token shards, and check them.

The trainer's own modules do the work, without torch. This shows how it goes: a bar in a terminal,
a line now and then elsewhere.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from curriculum_trainer.filling import Progress

app = typer.Typer(no_args_is_help=True, help="Make and check sources of token shards.")

LINE_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""


@app.command()
def prepare(
    inputs: Annotated[
        list[str],
        typer.Option("--input", metavar="PATH...", help="Files and folders; python:stdlib too."),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="DIR|train:VOCAB",
            help="A tokenizer's folder, or train one on the input, kept in DIR/tokenizer.",
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR/SOURCE", help="The source's folder.")],
    more_inputs: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    pattern: Annotated[str, typer.Option(help="Which files of a folder.")] = "*.py",
    field: Annotated[str, typer.Option(help="Field of JSON lines that holds the text.")] = "text",
    column: Annotated[str, typer.Option(help="Column of Parquet that holds the text.")] = "text",
    join: Annotated[
        bool, typer.Option("--join", help="Join each folder's files to one long document.")
    ] = False,
    pairs: Annotated[
        str | None,
        typer.Option(metavar="PROMPT:COMPLETION", help="Make preference pairs of so many tokens."),
    ] = None,
    limit_bytes: Annotated[
        int | None, typer.Option(min=1, help="Stop after about so much text.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the pairs' wrong continuations.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad records out.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace what the output holds.")] = False,
) -> None:
    """Turn text, JSON lines and Parquet into one source of token shards.

    Killed and started again with the same options, it goes on where it was.
    """
    _need_trainer("prepare")
    from curriculum_trainer import prepare as work
    from curriculum_trainer.failures import PhaseFailure

    try:
        options = work.Options(
            inputs=(*inputs, *(more_inputs or ())),
            tokenizer=tokenizer,
            output=output,
            pattern=pattern,
            field=field,
            column=column,
            join=join,
            pairs=work.parse_pairs(pairs),
            limit_bytes=limit_bytes,
            seed=seed,
            skip_bad=skip_bad,
            fresh=fresh,
        )
        with _shown() as tell:
            made = work.prepare(options, tell)
    except (PhaseFailure, OSError) as error:
        _fail("prepare", str(error))
    except KeyboardInterrupt:
        _fail("prepare", "interrupted; the same command goes on from here", code=130)
    typer.echo(work.summary(options, made))


@app.command()
def verify(
    sources: Annotated[list[Path], typer.Argument(metavar="DIR/SOURCE...")],
) -> None:
    """Read every byte of sources, and say file by file whether it is as it should be."""
    _need_trainer("verify")
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from curriculum_trainer import audit

    passed = True
    console = _console()
    with Progress(
        BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console, transient=True,
        disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty(),
    ) as bar:  # fmt: skip
        task = bar.add_task("verifying", total=sum(map(audit.num_bytes, sources)))
        for source in sources:
            for found in audit.audit(source, lambda read: bar.advance(task, read)):
                passed = passed and not found.problem
                verdict = "FAIL" if found.problem else "PASS"
                typer.echo(f"{verdict}  {found.path}  {found.problem or found.holds}")
    if not passed:
        raise typer.Exit(1)


def _need_trainer(command: str) -> None:
    missing = [name for name in ("numpy", "tokenizers", "pyarrow") if find_spec(name) is None]
    if missing:
        _fail(command, f"{', '.join(missing)} not installed: install curriculum-operator[trainer]")


def _fail(command: str, message: str, *, code: int = 1) -> NoReturn:
    typer.echo(f"curriculum data {command}: {message}", err=True)
    raise typer.Exit(code)


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def _shown() -> Iterator[Callable[["Progress"], None]]:
    """Shows progress on standard error."""
    console = _console()
    if not console.is_terminal:
        yield _lines(console)
        return
    with _bar(console) as bar:
        task = bar.add_task("reading", total=None, said="")
        pace = _Pace()

        def tell(progress: "Progress") -> None:
            bar.update(
                task,
                description=progress.stage,
                completed=progress.done,
                total=progress.total,
                said=pace.line(progress, time.monotonic()),
            )

        yield tell


def _bar(console: "Console") -> "Bar":
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[said]}"),
        progress.TimeRemainingColumn(),
        console=console,
    )


def _lines(console: "Console") -> Callable[["Progress"], None]:
    pace = _Pace()
    stage, said_at = "", 0.0

    def tell(progress: "Progress") -> None:
        nonlocal stage, said_at
        now = time.monotonic()
        said = pace.line(progress, now)
        if progress.stage != stage or now - said_at >= LINE_SECONDS:
            stage, said_at = progress.stage, now
            share = progress.done / progress.total if progress.total else 1
            console.print(f"{stage}: {share:.1%}, {said}", highlight=False, soft_wrap=True)

    return tell


class _Pace:
    """What is done, and how fast; what an earlier run did counts as done, not as fast."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = 0.0
        self._bytes_before = 0

    def line(self, progress: "Progress", now: float) -> str:
        """One line of figures."""
        said = (
            f"{progress.text_bytes / 1e6:,.1f} MB of text, {progress.documents:,} documents, "
            f"{progress.tokens:,} tokens"
        )
        if progress.stage != self._stage:
            self._stage, self._began = progress.stage, now
            self._bytes_before = progress.text_bytes
        fresh = progress.text_bytes - self._bytes_before
        return f"{said}, {fresh / 1e6 / (now - self._began):,.1f} MB/s" if fresh else said
