"""A phase that compiles nothing does not pay for torch.compile: seconds of a start, and memory."""

import os
import sys

import pytest

from curriculum_api.run import PhaseRun
from curriculum_trainer import reports, worker

from .phases import Phases

pytestmark = pytest.mark.trainer

COMPILER = ("torch._inductor.compiler_bisector", "torch._dynamo.repro")
"""What `torch.compile` imports when it is first called."""


def compilers(run: PhaseRun) -> list[str]:
    """Train; what of the compiler the process has then imported."""
    os.environ[reports.REPORT_ENV] = f"{run.checkpoints_dir}-report"
    assert worker.work(run) == 0
    return [name for name in sys.modules if name.startswith(COMPILER)]


@pytest.mark.parametrize("strategy", ["DDP", "ZeRO1", "ZeRO2", "ZeRO3"])
def test_training_imports_no_compiler(phases: Phases, strategy: str) -> None:
    run = phases.run(f"plain-{strategy.lower()}", strategy=strategy)
    assert phases.together(run, compilers) == [[]]
