"""Predicted against measured: small curricula on this machine's CPU, planned and then trained.

    python -m benchmarks.predicted_on_this_machine [--only NAME] [--keep FOLDER]

The machine is calibrated before and after each case, for as many processes as it trains with; the
prediction is the mean of both, because a virtual machine changes its speed within minutes, and how
far the two lie apart is printed beside it. No case was calibrated on: the probe times parts, and
of whole steps those of three blocks over eight tokens. Each case trains as `curriculum run` trains
it, over one long document of random tokens. Memory is the most that any process held resident; a
step's time is the median once warm.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.table import Table

from curriculum_api.estimate import plan
from curriculum_api.estimate.hardware import GIB
from curriculum_api.estimate.plan import Numbers, Site
from curriculum_api.v1alpha1.curriculum import CurriculumSpec
from curriculum_api.wire import Outcome
from curriculum_cli import local, plan_files, training
from curriculum_cli.documents import read
from curriculum_cli.training import Step
from curriculum_trainer import machine, synthetic

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / "build/bench"
WARM: Final = 4
MEMORY, TIME = 0.15, 0.20
"""How far a prediction may lie from what was measured."""


@dataclass(frozen=True, slots=True)
class Case:
    """A curriculum of one phase."""

    name: str
    hidden: int
    layers: int
    context: int
    rows: int
    """Sequences of one step."""

    vocab: int = 2048
    heads: int = 4
    kv_heads: int | None = None
    intermediate: int | None = None
    processes: int = 1
    steps: int = 20
    optimizer: str = "AdamW"
    phase: Mapping[str, Any] = field(default_factory=dict)

    def documents(self) -> list[dict[str, Any]]:
        """As a user would write it; the class is the one calibrated for as many processes."""
        step = self.rows * self.context
        return [
            {
                "apiVersion": "curriculum.dev/v1alpha1",
                "kind": "TrainingCurriculum",
                "metadata": {"name": "predicted"},
                "spec": {
                    "model": {
                        "config": {
                            "model_type": "llama",
                            "vocab_size": self.vocab,
                            "hidden_size": self.hidden,
                            "intermediate_size": self.intermediate or 8 * self.hidden // 3,
                            "num_hidden_layers": self.layers,
                            "num_attention_heads": self.heads,
                            "num_key_value_heads": self.kv_heads or self.heads,
                            "max_position_embeddings": self.context,
                            "tie_word_embeddings": True,
                        }
                    },
                    "tokenizer": {"path": "tokenizer"},
                    "storage": {
                        "data": {"claimName": "data"}, "checkpoints": {"claimName": "checkpoints"},
                    },
                    "phases": [
                        {
                            "name": "measured",
                            "objective": "Pretrain",
                            "acceleratorClass": class_name(self.processes),
                            "nodes": 1,
                            "gpusPerNode": self.processes,
                            "tokens": self.steps * step,
                            "contextLength": self.context,
                            "globalBatchTokens": step,
                            "precision": "FP32",
                            "strategy": "DDP",
                            "data": [{"source": synthetic.SOURCE}],
                            **self.phase,
                            "optimizer": {"name": self.optimizer, "learningRate": "1e-4"},
                        }
                    ],
                },
            }
        ]  # fmt: skip


AGAIN = {"memory": {"activationCheckpointing": True}}

CASES: Final = (
    Case("narrow and deep", 192, 10, context=512, rows=2),
    Case("wide and shallow", 640, 2, context=256, rows=4, phase={"microBatchSize": 4}),
    Case("long context, recomputed", 192, 3, context=3072, rows=1, phase=AGAIN),
    Case("large vocabulary, tiled", 192, 2, context=1024, rows=1, vocab=24576,
         phase={"memory": {"tileTokens": 512}}),
    Case("grouped heads, accumulated", 384, 3, context=256, rows=4, heads=6, kv_heads=2),
    Case("very small", 64, 4, context=128, rows=4, steps=40),
    Case("8-bit moments", 256, 3, context=512, rows=2, optimizer="AdamW8bit"),
    Case("ZeRO1, one process", 320, 4, context=512, rows=2, phase={"strategy": "ZeRO1"}),
    Case("DDP, two processes", 320, 4, context=512, rows=4, processes=2),
    Case("ZeRO1, two processes", 448, 3, context=512, rows=2, processes=2,
         phase={"strategy": "ZeRO1"}),
    Case("ZeRO3, two processes, recomputed", 320, 4, context=1024, rows=2, processes=2,
         phase={"strategy": "ZeRO3", **AGAIN}),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """What training a case came to."""

    gib: float
    seconds: float
    others: float
    """Share of the processors that other programs took meanwhile."""


@dataclass(frozen=True, slots=True)
class Row:
    """A case as planned by what the machine did before it and after it, and as it went."""

    case: Case
    before: Numbers
    after: Numbers
    real: Measured

    @property
    def gib(self) -> float:
        """As predicted."""
        return (self.before.memory.total + self.after.memory.total) / 2 / GIB

    @property
    def seconds(self) -> float:
        """Of a step, as predicted."""
        return sum(each.throughput.seconds.total for each in (self.before, self.after)) / 2

    @property
    def drift(self) -> float:
        """How much longer a step is by the later calibration."""
        earlier, later = (each.throughput.seconds.total for each in (self.before, self.after))
        return later / earlier - 1


def class_name(processes: int) -> str:
    """The class calibrated for so many processes."""
    return f"this-machine-x{processes}"


def main() -> int:
    """Calibrate, train, calibrate, plan, print; 1 where a prediction is further off than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predicted_on_this_machine")
    parser.add_argument(
        "--only", action="append", choices=[case.name for case in CASES], help="some cases"
    )
    parser.add_argument(
        "--keep", type=Path, help="what is measured is kept in this folder, and taken again"
    )
    asked = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory(prefix="predicted-", dir=WORK) as scratch:
        before: dict[int, Path] = {}
        for case in CASES:
            if asked.only and case.name not in asked.only:
                continue
            kept = (asked.keep or Path(scratch)) / case.name
            files = [kept / name for name in ("before.yaml", "after.yaml", "trained.json")]
            if not all(file.exists() for file in files):
                around(case, *files, before=before.get(case.processes), scratch=Path(scratch))
                before = {case.processes: files[1]}
            numbers = [predicted(case, file, Path(scratch)) for file in files[:2]]
            real = Measured(**json.loads(files[2].read_text()))
            found.append(Row(case, numbers[0], numbers[1], real))
    return report(found)


def around(
    case: Case, earlier: Path, later: Path, told: Path, *, before: Path | None, scratch: Path
) -> None:
    """Train a case between two calibrations; the earlier may be the one after the last case."""
    earlier.parent.mkdir(parents=True, exist_ok=True)
    if before is None:
        calibrate(case.processes, earlier)
    else:
        shutil.copy(before, earlier)
    real = trained(case, scratch)
    calibrate(case.processes, later)
    # last: a case without it is measured again, with both calibrations
    told.write_text(json.dumps(asdict(real)))


def calibrate(processes: int, file: Path) -> None:
    """Write the class of this machine as it is now."""
    words = ("--processes", str(processes), "--name", class_name(processes), "-o", str(file))
    probe = [sys.executable, "-m", "curriculum_cli.main", "doctor", "--calibrate", *words]
    subprocess.run(probe, check=True)


def predicted(case: Case, file: Path, folder: Path) -> Numbers:
    """The plan of a case by the class in a file."""
    given = plan_files.read([written(case, folder), file])
    spec: CurriculumSpec = next(iter(given.curricula.values()))
    (phase,) = plan.of(spec, Site(classes=given.classes, pools={}, documents={})).phases
    if phase.numbers is None:
        raise ValueError(f"{case.name}: {'; '.join(phase.problems)}")
    return phase.numbers


def trained(case: Case, folder: Path) -> Measured:
    """Train a case to its end."""
    data, checkpoints = folder / "data", folder / "checkpoints"
    shutil.rmtree(data, ignore_errors=True)
    sizes = synthetic.Sizes(
        model={"vocab_size": case.vocab}, longest=case.context * case.rows, steps=case.steps + 2
    )
    synthetic.make_data(data, sizes)
    curriculum = local.identified(read([written(case, folder)]).curricula[0])
    here = local.Here(data=data, checkpoints=checkpoints, gpus=0, processes=case.processes)
    run = local.phase_run(curriculum, curriculum.spec.phases[0], None, here)
    steps: list[Step] = []
    neighbours = machine.Neighbours()
    stop = training.Stop(print)
    ended = training.train(run, os.environ, stop=stop, on_step=steps.append, on_text=lambda _: None)
    if ended.outcome is not Outcome.SUCCEEDED:
        tail = "\n".join(training.log_tail(run))
        raise ValueError(f"{case.name}: {ended.outcome}: {ended.message}\n{tail}")
    shutil.rmtree(checkpoints, ignore_errors=True)
    others = neighbours.share()
    taken = [run.global_batch_tokens / step.tokens_per_second for step in steps[WARM:]]
    middle = statistics.median(taken)
    print(f"{case.name}: {middle:.3f} s a step, {min(taken):.3f} to {max(taken):.3f}", flush=True)
    return Measured(ended.metrics["memory/max_reserved(GiB)"], middle, others)


def written(case: Case, folder: Path) -> Path:
    """A case as a file."""
    path = folder / "curriculum.yaml"
    path.write_text(yaml.safe_dump_all(case.documents()))
    return path


def report(found: Iterable[Row]) -> int:
    """The table, the worst of both, and the exit code."""
    heads = [
        f"{what} {how}" for what in ("MiB", "ms") for how in ("predicted", "measured", "error")
    ]
    table = Table("curriculum", *heads, "drift", "others")
    errors: dict[str, list[tuple[float, str]]] = {"memory": [], "time": []}
    for row in found:
        real = row.real
        memory, time = row.gib / real.gib - 1, row.seconds / real.seconds - 1
        table.add_row(
            row.case.name,
            f"{row.gib * 1024:,.0f}", f"{real.gib * 1024:,.0f}", f"{memory:+.1%}",
            f"{row.seconds * 1e3:,.0f}", f"{real.seconds * 1e3:,.0f}", f"{time:+.1%}",
            f"{row.drift:+.0%}", f"{real.others:.0%}",
        )  # fmt: skip
        errors["memory"].append((memory, row.case.name))
        errors["time"].append((time, row.case.name))
    console = Console(width=120)
    console.print(table)
    for kind, each in errors.items():
        worst, name = max(each, key=lambda pair: abs(pair[0]))
        console.print(f"worst {kind}: {worst:+.1%}, {name}")
    bounds = {"memory": MEMORY, "time": TIME}
    within = all(abs(error) <= bounds[kind] for kind, each in errors.items() for error, _ in each)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
