"""The program `curriculum`, also installed as `kubectl-curriculum`.

Commands import what they need when they run: the program starts without kopf and without torch.
"""

import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from curriculum_cli import data

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train language models along a curriculum.",
)

app.add_typer(data.app, name="data")

Files = Annotated[
    list[Path],
    typer.Option(
        "--filename", "-f", help="YAML with the curriculum, its classes and pools; repeatable."
    ),
]


@app.command()
def render(
    filename: Files,
    phase: Annotated[str, typer.Option(help="Only this phase.")] = "",
) -> None:
    """Print the objects that the operator would create, with no cluster."""
    from curriculum_cli import documents, rendering

    try:
        sys.stdout.write(rendering.render(documents.read(filename), only=phase))
    except (OSError, ValueError) as error:
        typer.echo(f"curriculum render: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(metadata.version("curriculum-operator"))


def main() -> None:
    """Run the program."""
    name = Path(sys.argv[0]).name
    # kubectl runs `kubectl-curriculum`; its users type `kubectl curriculum`.
    app(prog_name="kubectl curriculum" if name.startswith("kubectl-") else "curriculum")


if __name__ == "__main__":
    main()
