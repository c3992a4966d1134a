"""What a training pod does: reads its PhaseRun, launches it, and ends as it ended."""

import argparse
import os
import sys
from pathlib import Path

from pydantic import ValidationError

from curriculum_api.run import EXIT_CODES, RUN_PATH, PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import launch


def main() -> int:
    """Run one attempt of one phase; returns the exit code of its outcome."""
    parser = argparse.ArgumentParser(
        prog="curriculum_trainer", description="Train one attempt of one phase."
    )
    parser.add_argument(
        "--run", type=Path, default=Path(RUN_PATH), help=f"the PhaseRun, {RUN_PATH} by default"
    )
    path = parser.parse_args().run
    try:
        run = PhaseRun.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        print(f'run "{path}" cannot be read: {error}', file=sys.stderr)
        return EXIT_CODES[Outcome.USER_ERROR]
    return launch.exit_code(launch.launch(run, path, os.environ))
