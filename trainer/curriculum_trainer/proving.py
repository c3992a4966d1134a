"""One worker of a measurement by hand, `python -m curriculum_trainer.proving --run FILE`.

It joins its gang as a training process does, and the leading one writes what was found.
"""

import argparse
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from curriculum_api.preflight.figures import Proof, RunPreflight
from curriculum_api.run import PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import (
    collective,
    preflight,
    preflight_report,
    reporting,
    result,
    transport,
)
from curriculum_trainer.meeting import Meeting
from curriculum_trainer.reports import PROOF_ENV
from curriculum_trainer.result import Reached


def main() -> None:
    """Measure, report, and leave at once: a dead peer must not hold this process in its exit."""
    parser = argparse.ArgumentParser(prog="curriculum_trainer.proving")
    parser.add_argument("--run", type=Path, required=True)
    run = PhaseRun.model_validate_json(parser.parse_args().run.read_text())
    os._exit(work(run))


def work(run: PhaseRun) -> int:
    """Measure with the others, leave a report, and return the exit code."""

    def measured(_: Reached) -> tuple[Outcome, str]:
        _measure(run)
        return Outcome.SUCCEEDED, ""

    return reporting.reported(run, measured)


def _measure(run: PhaseRun) -> None:
    place = collective.place()
    device = collective.device(place)
    asked = run.preflight or RunPreflight()
    collective.join(device, place)
    seen = transport.prove(run, place, device)
    # where the whole run is on one machine, what stands for a node is one of its processes
    own = replace(place, local_rank=place.local_rank % run.processes_per_node)
    meeting = Meeting(own, asked.seconds)
    try:
        measured, found = preflight.measure(run, asked, own, device, meeting)
    finally:
        meeting.part()
    if not place.leads:
        return
    for line in (preflight_report.summary(measured), *found.remarks):
        print(line, flush=True)
    proof = Proof(
        measured=measured,
        floors=asked.floors,
        findings=found.findings,
        remarks=found.remarks,
        fabric=seen.text,
    )
    Path(os.environ[PROOF_ENV]).write_text(proof.model_dump_json(by_alias=True))
    with suppress(OSError):
        # made for the turns at the storage; it stays where somebody else keeps something there
        result.phase_folder(run).rmdir()


if __name__ == "__main__":
    main()
