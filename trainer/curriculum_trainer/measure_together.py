"""What processes do together: collectives, and whole steps with their states whole or sharded.

Tries are counted and not timed, so that no process waits for one that has stopped by its own clock.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from curriculum_api.calibration_figures import Step
from curriculum_api.run import PhaseRun
from curriculum_api.wire import Strategy
from curriculum_trainer import sharding
from curriculum_trainer.measure import Sizes, as_drawn, row, small_model, wait
from curriculum_trainer.precision import Device

LARGE_TRIES, SMALL_TRIES, STEP_TRIES = 10, 100, 6

UNUSUAL = 2
"""First steps that are not counted: ZeRO-3 learns the order of modules in them."""

STEP_TOKENS = 8
VOCAB = 256


def collectives(device: Device, sizes: Sizes) -> dict[str, float | None]:
    """Bytes a second that a process sends in each collective, as a ring sends them, and the seconds
    of a tiny all-reduce; by the names of `Figures`."""
    ranks = dist.get_world_size()
    if ranks == 1:
        return dict.fromkeys(("link", "reduce", "scatter", "gather", "latency_seconds"))
    part = torch.zeros(sizes.collective_bytes // 4 // ranks, device=device.name)
    whole = torch.zeros(part.numel() * ranks, device=device.name)
    one = torch.zeros(1, device=device.name)
    half = part.numel() * 4 * (ranks - 1)

    def reduce() -> None:
        # as ZeRO-1 does; the reduce-scatter is ZeRO-3's
        for rank, own in enumerate(whole.chunk(ranks)):
            dist.reduce(own, rank)

    def tries(work: Callable[[], object], count: int = LARGE_TRIES) -> float:
        return statistics.median(_seconds(work, device, count + 1)[1:])

    return {
        "link": 2 * half / tries(lambda: dist.all_reduce(whole)),
        "reduce": half / tries(reduce),
        "scatter": half / tries(lambda: dist.reduce_scatter_tensor(part, whole)),
        "gather": half / tries(lambda: dist.all_gather_into_tensor(whole, part)),
        "latency_seconds": tries(lambda: dist.all_reduce(one), SMALL_TRIES),
    }


def steps(device: Device, sizes: Sizes, run: PhaseRun) -> Iterator[Step]:
    """Steps of a small model, of few blocks and of more; without sharding, no all-reduce either."""
    hidden, few, many = sizes.step
    intermediate = 8 * hidden // 3
    # ZeRO-1 takes nothing by the block
    for strategy, layers in (
        (Strategy.DDP, few), (Strategy.DDP, many),
        (Strategy.ZERO1, many),
        (Strategy.ZERO3, few), (Strategy.ZERO3, many),
    ):  # fmt: skip
        scores = small_model(hidden, intermediate, layers, VOCAB, device)
        under = run.model_copy(update={"strategy": strategy})
        made = sharding.shard(scores, under, device=device, passes=1, fill=as_drawn)

        def work(made: Any = made, alone: bool = strategy is Strategy.DDP) -> None:
            given = row(VOCAB, STEP_TOKENS, device)
            made.backward(made.scores(*given, last=not alone).sum())
            made.norm()
            made.step(1e-4)

        taken = _seconds(work, device, UNUSUAL + STEP_TRIES)[UNUSUAL:]
        yield Step(
            strategy=strategy, hidden=hidden, intermediate=intermediate, layers=layers,
            vocab=VOCAB, seconds=statistics.median(taken),
        )  # fmt: skip
        # an engine and its model refer to each other
        del made, scores, work
        gc.collect()


def _seconds(work: Callable[[], object], device: Device, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - began)
    return taken
