"""SIGTERM and the deadline as questions that the loop asks in every step."""

import os
import signal
import time
from types import FrameType

from curriculum_api.run import PhaseRun

STARTED_AT_ENV = "CURRICULUM_STARTED_AT"
"""When the launcher started, by this machine's monotonic clock: loading counts as well."""


class Stop:
    """Before `arm` a SIGTERM ends the process at once: there is nothing to save yet."""

    def __init__(self, run: PhaseRun) -> None:
        self.asked = False
        self._run = run
        self._started_at = float(os.environ.get(STARTED_AT_ENV, time.monotonic()))
        self._overdue = False

    def arm(self) -> None:
        """From now on SIGTERM only sets `asked`."""
        signal.signal(signal.SIGTERM, self._ask)

    def overdue(self, seconds: float) -> bool:
        """Whether the deadline leaves less than `seconds`, what another step and a save take."""
        limit = self._run.deadline_seconds
        return limit is not None and time.monotonic() + seconds >= self._started_at + limit

    def agreed(self, *, asked: float, overdue: float) -> bool:
        """Whether any process was asked to stop or is out of time; both are summed over all."""
        self._overdue = bool(overdue)
        return bool(asked or overdue)

    def message(self, step: int) -> str:
        """Why the phase has stopped before its end."""
        why = (
            f"its deadline of {self._run.deadline_seconds} s leaves no time for another step"
            if self._overdue
            else "SIGTERM"
        )
        return f'phase "{self._run.phase}": {why}: saved at step {step}, the next attempt goes on'

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
