"""Live progress in the terminal: a table that moves, or a line per change where none can.

Must not ask the cluster anything.
"""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from tests.demo.follow import Snapshot

_QUARTER = 25


class Screen:
    """Where the demo speaks; a context in which the table moves."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._said: dict[str, tuple[object, ...]] = {}

    def say(self, text: str) -> None:
        """One line, with the seconds since the start."""
        stamp = f"[{time.monotonic() - self._started:6.1f} s]"
        self._console.print(f"{stamp} {text}", markup=False, highlight=False, soft_wrap=True)

    def show(self, snapshot: Snapshot) -> None:
        """The curriculum as it stands."""
        if self._live is None:
            self._tell_changes(snapshot)
            return
        if not self._live.is_started:
            self._live.start()
        self._live.update(_table(snapshot, time.monotonic() - self._started), refresh=True)

    def close(self) -> None:
        """Leave the table as it is."""
        if self._live is not None and self._live.is_started:
            self._live.stop()

    def _tell_changes(self, snapshot: Snapshot) -> None:
        for phase in snapshot.phases:
            percent = _percent(phase)
            # A line per quarter of a phase, not per report.
            now = (phase["state"], phase["attempts"], phase.get("message"), percent // _QUARTER)
            if now[0] != "Pending" and self._said.get(phase["name"]) != now:
                self._said[phase["name"]] = now
                self.say(_line(phase, snapshot))


def _line(phase: Mapping[str, Any], snapshot: Snapshot) -> str:
    words = [f"phase {phase['name']}: {phase['state']}"]
    if phase["state"] == "Running":
        words.append(f"attempt {phase['attempts']} on {', '.join(phase.get('nodes') or [])}")
        loss = _metric(phase, "loss")
        if loss:
            words.append(f"{_percent(phase)} %, loss {float(loss):.3f}")
    if phase["state"] == "Succeeded":
        cost = snapshot.status.get("cost")
        words.append(f"checkpoint step {phase['checkpoint']['step']}")
        words += [f"cost so far {cost}"] if cost else []
    if phase.get("message"):
        words.append(phase["message"])
    return ", ".join(words)


def _table(snapshot: Snapshot, seconds: float) -> Table:
    status = snapshot.status
    title = f"demo {snapshot.state}, {seconds:.0f} s"
    table = Table(title=f"{title}, cost {status['cost']}" if status.get("cost") else title)
    for column in ("phase", "class", "nodes", "state", "progress", "loss", "tokens/s"):
        table.add_column(column)
    specs = {phase["name"]: phase for phase in snapshot.curriculum["spec"]["phases"]}
    for phase in snapshot.phases:
        loss, speed = _metric(phase, "loss"), _metric(phase, "tokens_per_second")
        table.add_row(
            phase["name"],
            specs[phase["name"]]["acceleratorClass"],
            " ".join(phase.get("nodes") or []),
            phase["state"],
            ProgressBar(total=100, completed=_percent(phase), width=24),
            f"{float(loss):.3f}" if loss else "",
            f"{float(speed):,.0f}" if speed else "",
        )
        if phase.get("message"):
            table.add_row("", "", "", f"[dim]{phase['message'][:60]}")
    return table


def _percent(phase: Mapping[str, Any]) -> int:
    if phase["state"] in ("Verifying", "Succeeded"):
        return 100
    return int((phase.get("progress") or {}).get("progressPercentage") or 0)


def _metric(phase: Mapping[str, Any], name: str) -> str:
    for metric in (phase.get("progress") or {}).get("metrics") or []:
        if metric["name"] == name:
            return str(metric["value"])
    return ""
