"""The table that a finished curriculum is shown as. Pure."""

from collections.abc import Callable

from rich.table import Table

from curriculum_api.summary import CurriculumSummary, PhaseSummary

Cell = Callable[[PhaseSummary], str]

_LEFT: dict[str, Cell] = {
    "phase": lambda phase: phase.name,
    "class": lambda phase: phase.accelerator_class,
    "nodes": lambda phase: " ".join(phase.nodes),
    "strategy": lambda phase: phase.strategy,
}
_RIGHT: dict[str, Cell] = {
    "processes": lambda phase: str(phase.world_size),
    "context": lambda phase: str(phase.context_length),
    "tokens": lambda phase: f"{phase.tokens:,}",
    "first loss": lambda phase: _loss(phase.loss_first),
    "last loss": lambda phase: _loss(phase.loss_last),
    "seconds": lambda phase: f"{phase.seconds:.0f}",
    "tokens/s": lambda phase: _speed(phase.tokens_per_second),
    "attempts": lambda phase: str(phase.attempts),
}
PLACES = frozenset({"class", "nodes"})
"""Columns that say nothing where all phases ran on one machine."""


def table(summary: CurriculumSummary, *, places: bool) -> Table:
    """One row per phase, or per combination of a sweep."""
    shown = Table(title="What the curriculum came to")
    left = {name: cell for name, cell in _LEFT.items() if places or name not in PLACES}
    settings = list(dict.fromkeys(key for p in summary.phases for key in p.settings or {}))
    for name in (*left, *settings):
        shown.add_column(name)
    for name in _RIGHT:
        shown.add_column(name, justify="right")
    shown.add_column("checkpoint")
    for phase in summary.phases:
        shown.add_row(
            *(cell(phase) for cell in left.values()),
            *((phase.settings or {}).get(key, "") for key in settings),
            *(cell(phase) for cell in _RIGHT.values()),
            (phase.checkpoint.digest or "-").removeprefix("sha256:")[:12],
        )
    return shown


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _speed(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
