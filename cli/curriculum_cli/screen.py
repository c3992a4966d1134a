"""How a local run shows itself: a bar that moves, or a line now and then where none can."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from curriculum_cli.training import Step

PLAIN_SECONDS = 10.0
"""Between two lines of a phase where the output is no terminal."""

PLAIN_COLUMNS = 160
"""A log has no width: rich would assume 80 columns and cut the table's cells."""


class Screen:
    """Where a run speaks."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console()
        if not console.is_terminal:
            console = Console(file=console.file, width=PLAIN_COLUMNS)
        self.console = console

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def following(self, name: str, *, tokens: int) -> Iterator[Callable[[Step], None]]:
        """A phase of so many tokens; what this gives is called with each step."""
        pace = Pace(tokens=tokens)
        if not self.console.is_terminal:
            yield _Plain(self.say, name, pace)
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
            TextColumn("{task.fields[told]}"),
        )  # fmt: skip
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(name, total=tokens, told="starting")
            yield _Live(progress, task, pace)


class Pace:
    """Speed and time left, by what this attempt has done so far."""

    def __init__(self, *, tokens: int) -> None:
        self.tokens = tokens
        self._first: tuple[float, int] | None = None

    def told(self, step: Step, *, now: float) -> str:
        """Loss, speed and time left after a step."""
        self._first = self._first or (now, step.tokens)
        since, tokens = self._first
        speed = step.tokens_per_second
        if now > since and step.tokens > tokens:
            speed = (step.tokens - tokens) / (now - since)
        left = (self.tokens - step.tokens) / speed if speed > 0 else 0.0
        return f"loss {step.loss:.4f}, {speed:,.0f} tokens/s, {duration(left)} left"


class _Live:
    def __init__(self, progress: Progress, task: TaskID, pace: Pace) -> None:
        self._progress, self._task, self._pace = progress, task, pace

    def __call__(self, step: Step) -> None:
        told = self._pace.told(step, now=time.monotonic())
        self._progress.update(self._task, completed=step.tokens, told=told)


class _Plain:
    def __init__(self, say: Callable[[str], None], name: str, pace: Pace) -> None:
        self._say, self._name, self._pace = say, name, pace
        self._said_at = -PLAIN_SECONDS

    def __call__(self, step: Step) -> None:
        now = time.monotonic()
        told = self._pace.told(step, now=now)
        if now - self._said_at < PLAIN_SECONDS and step.tokens < self._pace.tokens:
            return
        self._said_at = now
        percent = min(100, 100 * step.tokens // self._pace.tokens)
        self._say(f"{self._name}: {percent} %, step {step.step}, {told}")


def duration(seconds: float) -> str:
    """For people: 45s, 2m17s, 3h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
