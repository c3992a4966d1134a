"""The gradients of a phase's first step, and how near two of them are."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum_api.run import PhaseRun
from curriculum_trainer import batch, begin, collective
from curriculum_trainer.begin import Work
from curriculum_trainer.result import Reached

from .phases import Phases


def gradients(run: PhaseRun) -> tuple[float, dict[str, NDArray[np.float32]]]:
    """Loss and gradients of the first step, as the update would see them."""
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    work = begin.prepare(run, place, device, Reached())
    parts = batch.micro_batches(work.mixture, work.layout, step=0, device="cpu")
    (weight,) = collective.total([sum(map(work.objective.weight, parts))], device=device)
    loss = 0.0
    for part in parts:
        scores = work.sharding.scores(*part.inputs, last=part is parts[-1])
        share = work.objective.share(scores, part)
        work.sharding.backward(share.surrogate * place.world_size / weight)
        loss += share.loss / weight
    (loss,) = collective.total([loss], device=device)
    return loss, {name: _gradient(work, name).numpy() for name, _ in work.sharding.names()}


def _gradient(work: Work, name: str) -> torch.Tensor:
    parameter = work.sharding._parameters[name]  # type: ignore[attr-defined]
    if work.run.strategy == "DDP":
        return parameter.grad.clone()
    from deepspeed.utils import safe_get_full_grad

    return safe_get_full_grad(parameter)


def assert_same_gradients(phases: Phases, alone: PhaseRun, spread: PhaseRun) -> None:
    """The first step of `spread` has the loss and every gradient of that of `alone`."""
    (expected_loss, expected), *_ = phases.together(alone, gradients)
    answers = phases.together(spread, gradients)
    for loss, found in answers:
        assert math.isclose(loss, expected_loss, rel_tol=1e-6)
        for name, gradient in found.items():
            error = np.linalg.norm(gradient - expected[name]) / np.linalg.norm(expected[name])
            assert error < 1e-6, (name, error)
