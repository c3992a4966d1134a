"""One training process: runs the loop, and leaves a report of how it ended for its launcher."""

import argparse
import os
from pathlib import Path

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import collective, reporting
from curriculum_trainer.progress import Progress
from curriculum_trainer.result import Reached
from curriculum_trainer.stop import Stop
from curriculum_trainer.train import train


def main() -> None:
    """Train, report, and leave at once: a dead peer must not hold this process in its exit."""
    parser = argparse.ArgumentParser(prog="curriculum_trainer.worker")
    parser.add_argument("--run", type=Path, required=True)
    run = PhaseRun.model_validate_json(parser.parse_args().run.read_text())
    os._exit(work(run))


def work(run: PhaseRun) -> int:
    """Train as the environment says, leave a report, and return the exit code."""

    def trained(reached: Reached) -> tuple[Outcome, str]:
        place = collective.place()
        progress = Progress(os.environ, leads=place.leads)
        stop = Stop(run)
        outcome = train(run, place, reached, progress=progress, stop=stop)
        progress.close()
        return outcome, stop.message(reached.step) if outcome is Outcome.PREEMPTED else ""

    return reporting.reported(run, trained)


if __name__ == "__main__":
    main()
