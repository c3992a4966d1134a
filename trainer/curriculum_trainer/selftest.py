"""`python -m curriculum_trainer.selftest`: whether this machine's GPUs train, and how fast.

Its phases take the trainer's own path, from launch to checkpoint, over random tokens in a folder
that is gone afterwards. One row per check; exit code 1 where one failed, 2 where there is no GPU.
"""

import argparse
import importlib.util
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curriculum_api.run import PhaseResult, PhaseRun
from curriculum_api.wire import OptimizerName, Outcome, Precision
from curriculum_trainer import collective, flops, launch, precision, probe, synthetic
from curriculum_trainer.collective import Place
from curriculum_trainer.placement import placement
from curriculum_trainer.precision import Device
from curriculum_trainer.probe import Row, Verdict
from curriculum_trainer.synthetic import Sizes

NO_GPU = (
    "the self-test needs a machine with an NVIDIA GPU, its driver, and a torch built for CUDA: "
    "no CUDA device is visible here"
)

UNIFIED_SHARE = 0.7
"""Of memory that GPU and host share, what a phase may take: on a DGX Spark a phase that takes all
of it does not run out of memory, it stops the machine."""

Launch = Callable[[PhaseRun], PhaseResult]


@dataclass(frozen=True, slots=True)
class Machine:
    """What is tested: `count` devices like `device`."""

    device: Device
    name: str
    count: int
    nccl: tuple[int, ...] | None
    unified: bool = False


def main() -> int:
    """Test this machine and print the table."""
    parser = argparse.ArgumentParser(prog="curriculum_trainer.selftest", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, help="where its files may lie, about 6 GB; the system's by default"
    )
    folder = parser.parse_args().folder
    if not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    machine, sizes = this_machine(), Sizes()
    if machine.unified:
        os.environ["PYTORCH_ALLOC_CONF"] = f"per_process_memory_fraction:{UNIFIED_SHARE}"
    with tempfile.TemporaryDirectory(prefix="self-test-", dir=folder) as made:
        root = Path(made)
        synthetic.make_data(root, sizes)
        found = list(rows(machine, sizes, root, launching(root)))
    print("\n".join(table(found)))
    return 1 if any(row.verdict is Verdict.FAIL for row in found) else 0


def this_machine() -> Machine:
    """The CUDA devices that are visible, taken for alike."""
    device = collective.device(Place(rank=0, local_rank=0, world_size=1))
    return Machine(
        device=device,
        name=torch.cuda.get_device_name(0),
        count=torch.cuda.device_count(),
        nccl=torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else None,
        unified=bool(torch.cuda.get_device_properties(0).is_integrated),
    )


def launching(root: Path, **arguments: Any) -> Launch:
    """Runs phases as a pod would; what a phase saved is dropped at once."""

    def run(asked: PhaseRun) -> PhaseResult:
        path = root / "run.json"
        path.write_text(asked.model_dump_json(by_alias=True))
        ended = launch.launch(asked, path, os.environ, **arguments)
        shutil.rmtree(root / "checkpoints", ignore_errors=True)
        return ended

    return run


def rows(machine: Machine, sizes: Sizes, root: Path, run: Launch) -> Iterator[Row]:
    """Every check, one after another."""

    def phase(**changes: Any) -> PhaseRun:
        return synthetic.phase(root, sizes, devices=machine.count, **changes)

    device = machine.device
    yield probe.driver(machine.name, device)
    yield probe.nccl(machine.nccl)
    peak = flops.peak_flops(machine.name, device.capability, Precision.BF16)
    yield probe.matmul(probe.multiply(device, side=sizes.matmul_side), peak)
    where = placement(phase(), os.environ)
    yield probe.all_reduce(where, os.environ, num_bytes=sizes.reduce_bytes)
    yield trained("DDP, BF16", run(phase()))
    yield longest_context(machine, sizes, phase, run)
    for asked in precision.SCALED:
        scaled = phase(precision=asked)
        yield unfit(scaled, device) or trained(f"DDP, {asked}", run(scaled))
    for name in (OptimizerName.ADAMW_8BIT, OptimizerName.ADAMW_4BIT):
        optimizer = {"name": name, "learning_rate": 1e-4, "schedule": "Constant"}
        yield trained(f"DDP, BF16, {name}", run(phase(optimizer=optimizer)))


def trained(check: str, ended: PhaseResult) -> Row:
    """What a phase came to."""
    if ended.outcome is not Outcome.SUCCEEDED:
        return Row(check, Verdict.FAIL, f"{ended.outcome}: {ended.message}")
    return Row(check, Verdict.PASS, _figures(ended))


def unfit(run: PhaseRun, device: Device) -> Row | None:
    """Why a precision is not tried here, if it is not."""
    check = f"DDP, {run.precision}"
    reason = precision.refusal(run, device)
    if reason is not None:
        return Row(check, Verdict.SKIP, reason)
    if importlib.util.find_spec("transformer_engine") is None:
        return Row(check, Verdict.SKIP, "Transformer Engine is not installed")
    return None


def longest_context(
    machine: Machine, sizes: Sizes, phase: Callable[..., PhaseRun], run: Launch
) -> Row:
    """ZeRO-3 over all devices with the sequence spread over them, doubled until it does not fit."""
    # 3, 5, 6 or 7 devices divide neither a sequence nor the heads
    degree = math.gcd(machine.count, 8)
    check = f"ZeRO-3, sequence parallel {degree}, BF16"
    best: PhaseResult | None = None
    fits, context, why = 0, sizes.context, f"{sizes.longest} is the longest that is tried"
    while context <= sizes.longest:
        ended = run(
            phase(
                strategy="ZeRO3",
                sequence_parallel=degree,
                context_length=context,
                memory={"activation_checkpointing": True, "tiled_mlp": True},
            )
        )
        if ended.outcome is Outcome.OUT_OF_MEMORY:
            why = f"{context} tokens did not fit"
            break
        if ended.outcome is not Outcome.SUCCEEDED:
            return Row(check, Verdict.FAIL, f"{context} tokens: {ended.outcome}: {ended.message}")
        best, fits, context = ended, context, 2 * context
        # attention over twice the tokens is four times the work
        if 4 * ended.metrics["time_metrics/end_to_end(s)"] > sizes.step_seconds:
            why = f"a step of {context} tokens would take more than {sizes.step_seconds:.0f} s"
            break
    if best is None:
        return Row(check, Verdict.FAIL, f"{why}: not even the shortest context")
    return Row(check, Verdict.PASS, f"{fits} tokens of context, {_figures(best)}; {why}")


def table(found: list[Row]) -> list[str]:
    """The rows as lines of text."""
    width = max(len(row.check) for row in found)
    return [f"{row.verdict}  {row.check:<{width}}  {row.says}" for row in found]


def _figures(ended: PhaseResult) -> str:
    metrics = ended.metrics
    speed = metrics["throughput(tps)"] * ended.world_size
    share = f"MFU {metrics['mfu(%)']:.1f} %" if "mfu(%)" in metrics else "no peak known for MFU"
    memory = metrics["memory/max_reserved(GiB)"]
    return f"{speed:.0f} tokens/s, {share}, {memory:.1f} GiB a device at most"


if __name__ == "__main__":
    sys.exit(main())
