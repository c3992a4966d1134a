"""Lets SIGTERM end a container's first process that has nothing to save.

The kernel gives such a process no default: a SIGTERM that nothing handles is dropped, and the pod
stays until its grace time is over, which is minutes. It imports nothing that takes long.
"""

import os
import signal
from types import FrameType

TEMPORARY = os.EX_TEMPFAIL
"""The exit code of a preempted attempt, as EXIT_CODES has it."""


def on_sigterm() -> None:
    """From now on SIGTERM ends this process, until somebody handles it otherwise."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"SIGTERM: nothing to save\n")
    os._exit(TEMPORARY)
