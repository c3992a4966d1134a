"""One training process of a PhaseRun under torch's profiler, for `throughput.py --profile`."""

import os
import sys
import tempfile
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from curriculum_api.run import PhaseRun
from curriculum_trainer import worker
from curriculum_trainer.placement import placement
from curriculum_trainer.reports import REPORT_ENV


def main() -> None:
    """Train the run of `sys.argv[1]` in this process, and print where the time went."""
    run = PhaseRun.model_validate_json(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory() as scratch:
        os.environ[REPORT_ENV] = str(Path(scratch) / "report.json")
        os.environ.update(placement(run, {}).worker_environment(0, os.environ))
        with profile(activities=[ProfilerActivity.CPU]) as kept:
            code = worker.work(run)
    print(kept.key_averages().table(sort_by="self_cpu_time_total", row_limit=int(sys.argv[2])))
    sys.exit(code)


if __name__ == "__main__":
    main()
