"""What can end an attempt, and how any exception becomes one outcome and one line.

Imports no torch: the launcher and the verifier use it too, so exceptions of torch and DeepSpeed
are recognised by their class names and texts.
"""

import errno
import re

from curriculum_api.wire import Outcome

LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Socket Timeout",
    "Connection refused",
    "Timed out waiting",
    "wait timeout after",
    "failed to recv",
    "NCCL error",
    "ncclRemoteError",
    "ncclSystemError",
    "Watchdog caught collective operation timeout",
)
"""Texts by which gloo, NCCL and the rendezvous store tell that another process is gone."""

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "bad_alloc",
)

FABRIC_CLASSES = {"DistNetworkError", "DistBackendError", "DistStoreError", "DistQueueEmptyError"}

_PEER = re.compile(r"(?:peer|host|server|from) ?[\[(]?((?:\d{1,3}\.){3}\d{1,3}|[\w.-]+:\d+)")


class PhaseFailure(Exception):
    """An expected end of an attempt: an outcome and one line that says what to do."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message


def user_error(message: str) -> PhaseFailure:
    """A run that can never work as it is written."""
    return PhaseFailure(Outcome.USER_ERROR, message)


def data_error(message: str) -> PhaseFailure:
    """Data that is missing, cut or of another tokenizer."""
    return PhaseFailure(Outcome.DATA_ERROR, message)


def checkpoint_error(message: str) -> PhaseFailure:
    """A checkpoint that cannot be written, read or trusted."""
    return PhaseFailure(Outcome.CHECKPOINT_ERROR, message)


def classify(error: BaseException) -> tuple[Outcome, str]:
    """The outcome and the one-line message of any exception."""
    if isinstance(error, PhaseFailure):
        return error.outcome, one_line(error.message)
    text = one_line(f"{type(error).__name__}: {error}")
    if type(error).__name__ in FABRIC_CLASSES and "ibv_" in str(error):
        # a device's call failed, be it for want of memory that may be locked
        return Outcome.FABRIC_ERROR, text
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Outcome.OUT_OF_MEMORY, text
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return Outcome.OUT_OF_MEMORY, text
    if any(sign in str(error) for sign in OUT_OF_MEMORY):
        return Outcome.OUT_OF_MEMORY, text
    if type(error).__name__ in FABRIC_CLASSES or _speaks_of_a_lost_peer(error):
        return Outcome.FABRIC_ERROR, f"lost a peer{_named(str(error))}: {text}"
    return Outcome.UNKNOWN, text


def one_line(text: str, limit: int = 1500) -> str:
    """`text` without line breaks, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _speaks_of_a_lost_peer(error: BaseException) -> bool:
    if isinstance(error, ConnectionError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_PEER)


def _named(text: str) -> str:
    found = _PEER.search(text)
    return f" ({found.group(1)})" if found else ""
