"""What one optimizer step came to, by torchtitan's keys, so that its readers read ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from curriculum_api.run import PhaseRun
from curriculum_trainer import machine
from curriculum_trainer.batch import MicroBatch
from curriculum_trainer.precision import Device

Figures = Mapping[str, float | str | None]
"""One line of metrics; None where nothing stands behind a number."""

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Cost:
    """What a token costs in floating-point operations, and what a device can do."""

    per_token: float
    per_attended: float
    """More of it for each token that a token attends to."""

    peak: float | None = None
    """Operations per second of one device; None where no data sheet is known."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step, as measured; what may differ between processes is the largest of any."""

    loss: float
    loss_most: float
    """The loss of the process whose own share of the batch had the largest."""

    norm: float
    rate: float
    seconds: float
    waited: float
    """Seconds in which the step stood still for want of data."""

    memory_bytes: float
    attended: float
    """Length of the document that a token is in, on average over tokens."""

    means: Mapping[str, float] = field(default_factory=dict)
    """What the objective adds."""

    skipped: str = ""
    """The sequences that were not learnt from, where the step was skipped."""


def figures(run: PhaseRun, step: Step, cost: Cost) -> dict[str, float | None]:
    """The step by torchtitan's keys."""
    per_device = run.global_batch_tokens / step.seconds / run.world_size
    flops = (cost.per_token + cost.per_attended * step.attended) * per_device
    return {
        "loss_metrics/global_avg_loss": _number(step.loss),
        "loss_metrics/global_max_loss": _number(step.loss_most),
        "grad_norm": _number(step.norm),
        "lr": step.rate,
        "throughput(tps)": round(per_device, 1),
        "tflops": float(f"{flops / 1e12:.4g}"),
        "mfu(%)": round(100 * flops / cost.peak, 2) if cost.peak else None,
        "time_metrics/end_to_end(s)": round(step.seconds, 4),
        "time_metrics/data_loading(s)": round(step.waited, 4),
        "time_metrics/data_loading(%)": round(100 * step.waited / step.seconds, 2),
        "memory/max_reserved(GiB)": round(step.memory_bytes / _GIB, 3),
        **{name: _number(value) for name, value in step.means.items()},
    }


def line(run: PhaseRun, step: Step, cost: Cost, *, number: int, tokens: int) -> Figures:
    """The step's line: what people and the operator look for first, then torchtitan's keys."""
    first: dict[str, float | str | None] = {
        "step": number,
        "tokens": tokens,
        "loss": _number(step.loss),
        "tokens_per_second": round(run.global_batch_tokens / step.seconds, 1),
        "step_seconds": round(step.seconds, 4),
    }
    if step.skipped:
        first["skipped"] = step.skipped
    return first | figures(run, step, cost)


def attended(parts: Sequence[MicroBatch]) -> float:
    """Length of the document that a token is in, on average over the tokens of some batches."""
    lengths = [length for part in parts for row in part.lengths for length in row]
    return sum(length * length for length in lengths) / sum(lengths)


def memory_bytes(device: Device) -> int:
    """The most memory of the device that this process has held; its resident memory on a CPU."""
    if device.kind == "cuda":
        import torch

        return int(torch.cuda.max_memory_reserved(device.index))
    return machine.peak_resident_bytes()


def _number(value: float) -> float | None:
    """None for what JSON cannot say."""
    return value if value - value == 0 else None
