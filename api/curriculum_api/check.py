"""One check of a machine, a node or a link: what was found, what it should be, what to do."""

from collections.abc import Iterable
from enum import StrEnum

from curriculum_api.wire import Wire


class Verdict(StrEnum):
    """How a check came out."""

    PASS = "PASS"
    WARN = "WARN"
    """Training works, but slower or with less room than it could."""

    FAIL = "FAIL"


class Check(Wire):
    """One row."""

    subject: str = ""
    """Which node, pair or class it is about; empty for the machine or the cluster itself."""

    name: str
    verdict: Verdict
    value: str
    """As found, with its unit."""

    floor: str = ""
    """What it should be; empty where anything will do."""

    remedy: str = ""
    """What to do; empty where it passed."""


def failed(rows: Iterable[Check]) -> bool:
    """Whether training cannot be relied on."""
    return any(row.verdict is Verdict.FAIL for row in rows)
