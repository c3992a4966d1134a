"""SIGTERM as a question that the loop asks between steps."""

import signal
from types import FrameType


class Stop:
    """Before `arm` a SIGTERM ends the process at once: there is nothing to save yet."""

    def __init__(self) -> None:
        self.asked = False

    def arm(self) -> None:
        """From now on SIGTERM only sets `asked`."""
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
