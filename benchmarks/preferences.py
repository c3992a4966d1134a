"""What DPO does to the reward margin and accuracy: `examples/laptop.yaml` on this CPU, as curves.

    python -m benchmarks.preferences      writes build/bench/preferences.png

The very command a user runs: `curriculum run` pretrains for some seconds, then trains on pairs.
Margin and accuracy are of pairs that the step has not yet learnt from.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot

ROOT: Final = Path(__file__).resolve().parent.parent
EXAMPLE: Final = ROOT / "examples/laptop.yaml"
WORK: Final = ROOT / "build/bench"
SOURCES: Final = {
    "text": ("python:stdlib", "--tokenizer", "train:2048", "--limit-bytes", "4000000"),
    "pairs": (
        *("python:stdlib/email", "python:stdlib/asyncio"),
        *("--tokenizer", str(WORK / "preferences-data/tokenizer"), "--pairs", "192:64"),
    ),
}
AVERAGED: Final = 5
"""Steps at either end whose mean is told: one step is a few pairs only."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the DPO phase."""

    step: int
    margin: float
    accuracy: float


def main() -> int:
    """Prepare, train, draw; 1 where the margin did not rise."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.preferences", description=(__doc__ or "").splitlines()[0]
    ).parse_args()
    data, checkpoints = WORK / "preferences-data", WORK / "preferences-checkpoints"
    for name, options in SOURCES.items():
        if not (data / name / "index.json").exists():
            _run("curriculum_trainer.prepare", "--output", str(data / name), "--input", *options)
    shutil.rmtree(checkpoints, ignore_errors=True)
    _run(
        *("curriculum_cli.main", "run", "-f", str(EXAMPLE)),
        *("--data", str(data), "--checkpoints", str(checkpoints)),
    )
    (lines,) = checkpoints.glob("*/laptop-*/preferences/metrics.jsonl")
    steps = read(lines.read_text().splitlines())
    picture = WORK / "preferences.png"
    draw(steps, picture)
    first, last = steps[:AVERAGED], steps[-AVERAGED:]
    for name, of in (("reward margin", _margins), ("reward accuracy", _accuracies)):
        print(
            f"{name}: {statistics.mean(of(first)):.3f} over the first {AVERAGED} of {len(steps)}"
            f" steps, {statistics.mean(of(last)):.3f} over the last {AVERAGED}"
        )
    print(f"curves in {picture.relative_to(ROOT)}")
    return int(statistics.mean(_margins(last)) <= statistics.mean(_margins(first)))


def read(lines: Sequence[str]) -> list[Step]:
    """The steps of a phase's metrics."""
    found = [json.loads(line) for line in lines]
    return [
        Step(one["step"], one["reward_margin"], one["reward_accuracy"])
        for one in found
        if "reward_margin" in one
    ]


def draw(steps: Sequence[Step], path: Path) -> None:
    """Margin on the left axis, accuracy on the right."""
    figure, left = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    right = left.twinx()
    numbers = [step.step for step in steps]
    left.plot(numbers, _margins(steps), color="C0", label="reward margin")
    right.plot(numbers, _accuracies(steps), color="C1", alpha=0.6, label="reward accuracy")
    right.axhline(0.5, color="C1", linestyle=":", linewidth=1)
    left.set_xlabel("step")
    left.set_ylabel("reward margin, chosen over rejected", color="C0")
    right.set_ylabel("share of pairs with a positive margin", color="C1")
    right.set_ylim(0, 1.05)
    left.set_title("DPO on examples/laptop.yaml")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _margins(steps: Sequence[Step]) -> list[float]:
    return [step.margin for step in steps]


def _accuracies(steps: Sequence[Step]) -> list[float]:
    return [step.accuracy for step in steps]


def _run(module: str, *arguments: str) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, env=environment)


if __name__ == "__main__":
    sys.exit(main())
