"""How training processes tell their launcher how they ended, and which end was the cause."""

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from curriculum_api.run import PhaseResult
from curriculum_api.wire import Outcome, Wire

REPORT_ENV = "CURRICULUM_WORKER_REPORT"
"""The file into which a training process writes its report."""

PROOF_ENV = "CURRICULUM_PROOF"
"""The file into which the leading process of a measurement by hand writes what it found."""


class Report(Wire):
    """The end of one training process, by its own account or its launcher's."""

    ended_at: float
    """Seconds since the epoch."""

    result: PhaseResult


def read(path: Path) -> Report | None:
    """The report of a process; None where it could not leave one."""
    try:
        return Report.model_validate(json.loads(path.read_text()))
    except (OSError, ValueError, ValidationError):
        return None


def cause(reports: Iterable[Report]) -> Report:
    """The report that explains the others.

    The earliest failure, but a lost peer only where nothing else failed: the process that lost
    its peer may notice before the launcher notices the peer.
    """
    ordered = sorted(reports, key=lambda report: report.ended_at)
    failed = [report for report in ordered if report.result.outcome is not Outcome.SUCCEEDED]
    # nodes that were measured and found wanting are a cause, and not the loss of a peer
    own = [
        report
        for report in failed
        if report.result.outcome is not Outcome.FABRIC_ERROR or report.result.preflight is not None
    ]
    return (own or failed or ordered)[0]
