"""One training process: runs the loop, and leaves a report of how it ended for its launcher."""

import argparse
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from curriculum_api.run import EXIT_CODES, PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import collective, failures, result, transport
from curriculum_trainer.progress import Progress
from curriculum_trainer.reports import REPORT_ENV, Report
from curriculum_trainer.result import Reached
from curriculum_trainer.stop import Stop
from curriculum_trainer.train import train

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Train, report, and leave at once: a dead peer must not hold this process in its exit."""
    parser = argparse.ArgumentParser(prog="curriculum_trainer.worker")
    parser.add_argument("--run", type=Path, required=True)
    run = PhaseRun.model_validate_json(parser.parse_args().run.read_text())
    os._exit(work(run))


def work(run: PhaseRun) -> int:
    """Train as the environment says, leave a report, and return the exit code."""
    _die_with_launcher()
    # read by libgomp when it is loaded, which a fork of the launcher has behind it
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    place = collective.place()
    progress = Progress(os.environ, leads=place.leads)
    reached = Reached()
    stop = Stop(run)
    message = ""
    try:
        outcome = train(run, place, reached, progress=progress, stop=stop)
        if outcome is Outcome.PREEMPTED:
            message = stop.message(reached.step)
        progress.close()
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


def _die_with_launcher() -> None:
    """No training process outlives its launcher, however that one ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
