"""`python -m curriculum_trainer.calibrate`: what this machine does for one training process, as
JSON; about a minute.

    launcher -> one worker per process, placed as in training -> each measures while all do -> JSON

On a CPU the workers share the processors as they would in training; with GPUs there is one worker
per GPU. The leading one tells, and every figure is the slowest worker's.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from curriculum_trainer import synthetic
from curriculum_trainer.placement import placement


def main() -> int:
    """Start the workers and print what the leading one found; its exit code where one fails."""
    parser = argparse.ArgumentParser(prog="curriculum_trainer.calibrate", description=__doc__)
    parser.add_argument("--processes", type=int, default=1, help="that train at once")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints would lie")
    parser.add_argument("--brief", action="store_true", help="a second instead of a minute")
    asked = parser.parse_args()
    run = synthetic.phase(asked.folder, synthetic.Sizes(), devices=asked.processes)
    where = placement(run, os.environ)
    command = [
        sys.executable, "-m", "curriculum_trainer.measuring", str(asked.folder),
        *(["--brief"] if asked.brief else []),
    ]  # fmt: skip
    workers = [
        subprocess.Popen(
            command,
            env=where.worker_environment(rank, os.environ),
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in range(asked.processes)
    ]
    said, _ = workers[0].communicate()
    codes = [worker.wait() for worker in workers]
    if any(codes):
        return next(code for code in codes if code)
    print(said.splitlines()[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
