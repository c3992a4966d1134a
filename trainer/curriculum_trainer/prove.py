"""`python -m curriculum_trainer.prove`: what a run's preflight would find of its nodes, by hand.

    launcher -> one worker per process, started and placed as in training -> a Proof, as JSON

Nothing is loaded, trained or told to the operator. The last line of the leading pod is the Proof,
also where nodes fall short: whoever asked is to judge. Only what could not be measured is an error.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from curriculum_api.run import EXIT_CODES, RUN_PATH, PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import launch, processes
from curriculum_trainer.processes import Process, Start
from curriculum_trainer.reports import PROOF_ENV


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a run's nodes and print the Proof; returns the exit code of the outcome."""
    parser = argparse.ArgumentParser(prog="python -m curriculum_trainer.prove")
    parser.add_argument("--run", type=Path, default=Path(RUN_PATH))
    parser.add_argument(
        "--here", action="store_true", help="every process of the run is one of this machine"
    )
    asked = parser.parse_args(arguments)
    try:
        run = PhaseRun.model_validate_json(asked.run.read_text())
    except (OSError, ValidationError) as error:
        print(f'run "{asked.run}" cannot be read: {error}', file=sys.stderr)
        return EXIT_CODES[Outcome.USER_ERROR]
    return prove(run, asked.run, os.environ, here=asked.here)


def prove(run: PhaseRun, run_path: Path, environment: Mapping[str, str], *, here: bool) -> int:
    """Measure in this pod, or all of the run on this machine."""
    placed = run
    if here:
        placed = run.model_copy(update={"nodes": 1, "processes_per_node": run.world_size})
    start: Start = _spawn
    if processes.choose(placed) is processes.fork:
        start = partial(_fork, run)
    with tempfile.TemporaryDirectory(prefix="curriculum-") as folder:
        told = Path(folder) / "proof.json"
        own = {**environment, PROOF_ENV: str(told)}
        ended = launch.launch(placed, run_path, own, start=start, keep=False)
        if ended.outcome is Outcome.SUCCEEDED and told.exists():
            # last, and by the launcher: what libraries say as they end comes before it
            print(told.read_text(), flush=True)
    return launch.exit_code(ended)


def _spawn(_run: PhaseRun, run_path: Path, environment: Mapping[str, str]) -> Process:
    arguments = ["--run", str(run_path)]
    return processes.interpreter("curriculum_trainer.proving", arguments, environment)


def _fork(
    run: PhaseRun, _placed: PhaseRun, _run_path: Path, environment: Mapping[str, str]
) -> Process:
    from curriculum_trainer import proving

    return processes.forked(lambda: proving.work(run), environment)


if __name__ == "__main__":
    sys.exit(main())
