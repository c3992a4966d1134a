"""What sharding sends in a step is what the plan counts, in `estimate.communication`."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from curriculum_api.estimate import communication
from curriculum_api.estimate.layout import Layout
from curriculum_api.estimate.recipe import of_phase
from curriculum_api.estimate.shape import of_config
from curriculum_api.run import PhaseRun
from curriculum_api.wire import OptimizerName, Precision, Strategy
from curriculum_trainer import batch, begin, collective, zero
from curriculum_trainer.result import Reached

from .phases import CONTEXT, MODEL, Phases

pytestmark = pytest.mark.trainer

HALVES = {"all_reduce": 2, "reduce": 1, "reduce_scatter_tensor": 1, "all_gather_into_tensor": 1}
"""Of a ring, which move (n - 1) / n of a buffer each."""

AGREED_BYTES = 512
"""Losses and norms that ranks agree on are shorter than any weight matrix."""


def sent(run: PhaseRun) -> Counter[str]:
    """Bytes that a rank moves in the second step, by collective, as a ring moves them."""
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    counted: Counter[str] = Counter()
    for name in HALVES:
        # before DeepSpeed is set up, which keeps some of them
        _count(name, counted, place.world_size)
    work = begin.prepare(run, place, device, Reached())
    for number in range(2):
        counted.clear()
        parts = batch.micro_batches(work.mixture, work.layout, step=number, device="cpu")
        for part in parts:
            scores = work.sharding.scores(*part.inputs, last=part is parts[-1])
            work.sharding.backward(work.objective.share(scores, part).surrogate)
        work.sharding.norm()
        work.sharding.step(1e-4)
    return counted


def _count(name: str, counted: Counter[str], ranks: int) -> None:
    real: Callable[..., Any] = getattr(dist, name)

    def counting(*arguments: Any, **named: Any) -> Any:
        tensors = [t for t in (*arguments, *named.values()) if isinstance(t, torch.Tensor)]
        size = max(tensor.numel() * tensor.element_size() for tensor in tensors)
        if size > AGREED_BYTES:
            counted[name] += round(HALVES[name] * size * (ranks - 1) / ranks)
        return real(*arguments, **named)

    setattr(dist, name, counting)


@pytest.mark.usefixtures("nothing_is_small")
@pytest.mark.parametrize("bucket", [zero.BUCKET_ELEMENTS, 1000])
@pytest.mark.parametrize(
    ("strategy", "micro_batch", "passes"),
    [
        ("ZeRO1", 2, 1),
        ("ZeRO1", 1, 2),
        ("ZeRO2", 2, 1),
        ("ZeRO2", 1, 2),
        ("ZeRO3", 2, 1),
        ("ZeRO3", 1, 2),
    ],
)
def test_a_step_sends_what_the_plan_counts(
    phases: Phases,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    micro_batch: int,
    passes: int,
    bucket: int,
) -> None:
    """Also where most matrices are larger than a bucket, as all are of a model of billions."""
    monkeypatch.setattr(zero, "BUCKET_ELEMENTS", bucket)
    run = phases.run(
        f"sent-{strategy.lower()}-{passes}",
        strategy=strategy,
        processes_per_node=2,
        micro_batch_size=micro_batch,
    )
    layout = Layout(
        1, 2, Strategy(strategy), context=CONTEXT, micro_batch=micro_batch, passes=passes
    )
    shape = of_config(MODEL)
    recipe = of_phase(Precision.FP32, OptimizerName.ADAMW, Strategy(strategy))
    planned = communication.of(shape, recipe, layout).states

    for found in phases.together(run, sent):
        assert "all_reduce" not in found, "twice the bytes of a reduction to whoever updates"
        assert math.isclose(sum(found.values()), planned, rel_tol=0.02), found
