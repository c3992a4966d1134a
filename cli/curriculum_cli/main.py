"""The program `curriculum`, also installed as `kubectl-curriculum`.

Commands import what they need when they run: the program starts without kopf and without torch.
"""

import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from curriculum_api.wire import Precision, State
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
    fabric: Annotated[
        bool,
        typer.Option(
            "--fabric",
            help="Only what each phase's pods get of their fabric, and why they would not start.",
        ),
    ] = False,
) -> None:
    """Print the objects that the operator would create, with no cluster.

    A ConfigMap among the files whose keys end in .env.j2 holds the site's own fabric profiles.

    Exit code 0: rendered; 2: with --fabric, something stands in a phase's way; 1: not readable.
    """
    from curriculum_cli import documents, rendering

    clear = True
    try:
        given = documents.read(filename)
        if fabric:
            text, clear = rendering.fabrics(given, only=phase)
        else:
            text = rendering.render(given, only=phase)
    except (OSError, ValueError) as error:
        typer.echo(f"curriculum render: {error}", err=True)
        raise typer.Exit(1) from error
    sys.stdout.write(text)
    raise typer.Exit(0 if clear else 2)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def plan(context: typer.Context) -> None:
    """Say what each phase takes before its first step: memory, hours, money."""
    from curriculum_cli import plan as command

    parent = context.parent.info_name if context.parent else None
    raise typer.Exit(command.main(context.args, program=parent or "curriculum"))


@app.command()
def run(
    filename: Files,
    phase: Annotated[
        str,
        typer.Option(
            help="Only this phase, from the verified checkpoint of the one before, or else fresh."
        ),
    ] = "",
    data: Annotated[Path, typer.Option(help="Folder that stands for the data volume.")] = Path(
        "data"
    ),
    checkpoints: Annotated[
        Path, typer.Option(help="Folder that stands for the checkpoints volume.")
    ] = Path("checkpoints"),
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training processes per phase; one per visible GPU, on a CPU one, if absent.",
        ),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Train every phase in this precision instead.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="Try these values of a field of --phase, or of the first phase, for example"
            " optimizer.learningRate=1e-3,3e-3; repeat it for a grid.",
        ),
    ] = None,
) -> None:
    """Train on this machine, with no cluster: the same phases, data and checkpoints.

    All nodes of a phase collapse onto this machine; the global batch stays as it is. Classes and
    pools are not needed: of a class in the files only gpusPerNode counts, where a phase leaves it
    and globalBatchTokens out. Checkpoints lie below a UID made of namespace and name, so the same
    command goes on where it stopped, and passes over what is finished and verified.

    Exit code 0: all succeeded; 1: a phase failed; 2: the files cannot be read or are invalid;
    130: interrupted, and saved.
    """
    from curriculum_cli import documents, local, machine, running
    from curriculum_cli.screen import Screen

    here = local.Here(
        data=data,
        checkpoints=checkpoints,
        gpus=machine.gpus(),
        processes=processes,
        precision=precision,
    )
    try:
        machine.check()
        state = running.run(
            documents.read(filename), here, only=phase, sweeps=sweep or (), screen=Screen()
        )
    except (OSError, ValueError) as error:
        typer.echo(f"curriculum run: {error}", err=True)
        raise typer.Exit(2) from error
    raise typer.Exit({State.SUCCEEDED: 0, State.SUSPENDED: 130}.get(state, 1))


@app.command()
def doctor(
    checkpoints: Annotated[Path, typer.Option(help="Folder where checkpoints would lie.")] = Path(
        "checkpoints"
    ),
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Check the cluster: operator, versions, Kueue, nodes.")
    ] = False,
    node: Annotated[str, typer.Option(help="Check this node of the cluster.")] = "",
    pair: Annotated[
        str, typer.Option(metavar="A,B", help="Check these two nodes and what joins them.")
    ] = "",
    fabric: Annotated[
        bool, typer.Option("--fabric", help="Check what joins the cluster's nodes.")
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Measure now, as a phase's preflight does: --node, --pair or here."
        ),
    ] = False,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Where the pods of --measure run.")
    ] = "default",
    claim: Annotated[
        str, typer.Option(help="PersistentVolumeClaim on which --measure measures storage.")
    ] = "",
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="table|json|FILE", help="With --calibrate, the class's file."
        ),
    ] = "",
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Measure this machine in a minute or two and write its accelerator class, which "
            "`curriculum plan -f` takes.",
        ),
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that are measured, or that the class is for; if absent one per GPU, on "
            "a CPU one.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the class.")] = None,
    brief: Annotated[bool, typer.Option("--brief", hidden=True)] = False,
) -> None:
    """Check whether this machine or a cluster can train, one row per check.

    Exit code 0: nothing failed; 1: a check failed, or the probe did.
    """
    from curriculum_api.check import failed
    from curriculum_cli import doctor as command

    try:
        if calibrate:
            text = command.calibrate(checkpoints, processes=processes, name=name, brief=brief)
            if output:
                Path(output).write_text(text)
                if text.startswith("#"):
                    typer.echo(text.splitlines()[0].removeprefix("# "), err=True)
            else:
                sys.stdout.write(text)
            return
        if output not in ("", "table", "json"):
            raise ValueError(f'"-o {output}": a file comes with --calibrate; else table or json')
        if cluster or node or pair or fabric:
            from curriculum_cli import doctor_cluster

            say = partial(typer.echo, err=True)
            asked = doctor_cluster.Measuring(namespace, claim, say) if measure else None
            rows = doctor_cluster.rows(node=node, pair=pair, fabric=fabric, measuring=asked)
        else:
            rows = command.check(checkpoints)
            if measure:
                rows += command.measured(processes, checkpoints)
    except (OSError, ValueError) as error:
        typer.echo(f"curriculum doctor: {error}", err=True)
        raise typer.Exit(1) from error
    command.show(rows, output)
    raise typer.Exit(1 if failed(rows) else 0)


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
