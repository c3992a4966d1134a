"""`curriculum plan`: what a curriculum takes, before its first step.

Parsed here and not by typer: starting is most of what this command does, and typer costs as much
of it as all the arithmetic and the files together.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curriculum_api.estimate.plan import Plan
    from curriculum_cli.plan_files import Given

FEASIBLE, UNREADABLE, NOT_FEASIBLE = 0, 1, 2


def parser(program: str) -> argparse.ArgumentParser:
    """What the command takes."""
    made = argparse.ArgumentParser(
        prog=f"{program} plan",
        description=(
            "Say what each phase takes: memory, tokens a second, hours, money. Ends with 0 where"
            " all of it can be, 2 where something cannot, 1 where a file cannot be read."
        ),
    )
    made.add_argument(
        "-f",
        "--filename",
        action="append",
        type=Path,
        required=True,
        metavar="FILE",
        help="YAML with the curriculum, its classes and pools; repeatable",
    )
    made.add_argument("-o", "--output", choices=("table", "json", "html"), default="table")
    made.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="prepared data, whose document lengths attention is counted by",
    )
    made.add_argument(
        "--cluster",
        action="store_true",
        help="take classes, pools and measured speeds from the cluster, not from the files",
    )
    made.add_argument(
        "--profile",
        choices=("measured", "article"),
        default="measured",
        help="article: the article's figures beside the measured ones",
    )
    made.add_argument(
        "--optimize",
        choices=("cost", "time"),
        help="search classes, nodes and layouts for the cheapest or the soonest plan",
    )
    made.add_argument(
        "--deadline", type=_hours, metavar="TIME", help="most time, for example 30d or 12h"
    )
    made.add_argument("--budget", type=float, metavar="USD", help="most money in dollars")
    return made


def _hours(text: str) -> float:
    """30d or 12h as hours."""
    units = {"d": 24.0, "h": 1.0}
    if text[-1:] not in units:
        raise argparse.ArgumentTypeError(f'"{text}" has no unit: write 30d or 12h')
    return float(text[:-1]) * units[text[-1]]


def main(arguments: Sequence[str], *, program: str = "curriculum") -> int:
    """Run the command; returns its exit code."""
    try:
        asked = parser(program).parse_args(arguments)
    except SystemExit as ended:
        # argparse ends with 2, which here means a plan that cannot be
        return UNREADABLE if ended.code else FEASIBLE
    from curriculum_api.estimate import plan
    from curriculum_cli import plan_data, plan_files

    try:
        given = plan_files.read(asked.filename)
        if asked.cluster:
            from curriculum_cli import plan_cluster

            given = plan_cluster.of(given)
        sites = {
            name: plan.Site(
                classes=given.classes,
                pools=given.pools,
                measurements=given.measurements,
                documents=plan_data.lengths(asked.data, spec) if asked.data else {},
            )
            for name, spec in given.curricula.items()
        }
        if asked.optimize:
            from curriculum_cli import plan_optimize

            return plan_optimize.main(given, sites, asked, program=program)
        plans = {name: plan.of(spec, sites[name]) for name, spec in given.curricula.items()}
        sys.stdout.write(_written(plans, given, output=asked.output, profile=asked.profile))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{program} plan: {error}\n")
        return UNREADABLE
    return FEASIBLE if all(made.feasible for made in plans.values()) else NOT_FEASIBLE


def _written(plans: "Mapping[str, Plan]", given: "Given", *, output: str, profile: str) -> str:
    if profile == "article":
        from curriculum_cli import plan_article

        return plan_article.text(plans, given)
    if output == "json":
        from curriculum_cli import plan_json

        return plan_json.text(plans)
    if output == "html":
        from curriculum_cli import plan_html

        return plan_html.text(plans)
    from curriculum_cli import plan_table

    return plan_table.text(plans)
