"""`python -m curriculum_trainer.calibrate`: what this machine does for one training process, as
JSON; about a minute.

    launcher -> one worker per process, started and placed as in training -> JSON

All measure the same at the same time, so on a CPU they share the processors as training does. They
are alike, so the leading one tells.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from curriculum_trainer import processes, synthetic
from curriculum_trainer.placement import placement
from curriculum_trainer.processes import Process


def main() -> int:
    """Start the workers and print what the leading one found; their exit code where one fails."""
    parser = argparse.ArgumentParser(prog="curriculum_trainer.calibrate", description=__doc__)
    parser.add_argument("--processes", type=int, default=1, help="that train at once")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints would lie")
    parser.add_argument("--brief", action="store_true", help="a second instead of a minute")
    asked = parser.parse_args()
    run = synthetic.phase(asked.folder, synthetic.Sizes(), devices=asked.processes)
    where = placement(run, os.environ)
    start = _fork if processes.choose(run) is processes.fork else _spawn
    with tempfile.TemporaryDirectory(prefix="curriculum-") as scratch:
        told = Path(scratch) / "figures.json"
        arguments = [str(asked.folder), str(told), *(["--brief"] if asked.brief else [])]
        workers = [
            start(arguments, where.worker_environment(rank, os.environ))
            for rank in range(asked.processes)
        ]
        codes = [worker.wait() for worker in workers]
        if any(codes):
            return next(code for code in codes if code)
        print(told.read_text())
    return 0


def _spawn(arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
    return processes.interpreter("curriculum_trainer.measuring", arguments, environment)


def _fork(arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
    """A fork after the imports, as `processes.fork` starts training."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from curriculum_trainer import measuring

    def work() -> int:
        measuring.main(arguments)
        return 0

    return processes.forked(work, environment)


if __name__ == "__main__":
    sys.exit(main())
