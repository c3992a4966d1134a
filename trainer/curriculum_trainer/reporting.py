"""One process of a gang: does its work, and leaves a report of how it ended for its launcher."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from curriculum_api.run import EXIT_CODES, PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import collective, failures, processes, result, transport
from curriculum_trainer.reports import REPORT_ENV, Report
from curriculum_trainer.result import Reached


def reported(run: PhaseRun, work: Callable[[Reached], tuple[Outcome, str]]) -> int:
    """Do some work, which tells its outcome and a message, leave the report of it or of the error
    that ended it, and return the exit code."""
    processes.die_with_launcher()
    # read by libgomp when it is loaded, which a fork of the launcher has behind it
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    reached = Reached()
    try:
        outcome, message = work(reached)
        collective.leave()
    except Exception as error:
        outcome, message = failures.classify(error)
        if not isinstance(error, failures.PhaseFailure):
            message = transport.explained(outcome, message)
            traceback.print_exc()
        reached.settle()
    report = Report(
        ended_at=time.time(),
        result=result.build(run, reached, outcome=outcome, message=message),
    )
    path = Path(os.environ[REPORT_ENV])
    part = path.with_suffix(".part")
    part.write_text(json.dumps(report.model_dump(mode="json", by_alias=True)))
    part.rename(path)
    sys.stdout.flush()
    sys.stderr.flush()
    return EXIT_CODES[outcome]
