"""What is not finite on one rank is skipped by all ranks, and never reaches a weight."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from curriculum_api.run import PhaseRun
from curriculum_trainer import batch, begin, collective
from curriculum_trainer.begin import Work
from curriculum_trainer.objective import NextToken, Share
from curriculum_trainer.result import Reached

from .phases import SEQUENCE_PARALLEL, Phases, losses_of, steps_of

pytestmark = pytest.mark.trainer

LAYOUTS = [
    pytest.param({"processes_per_node": 2}, id="DDP-2"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO1"}, id="ZeRO1-2"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO2"}, id="ZeRO2-2"),
    pytest.param(SEQUENCE_PARALLEL, id="ZeRO3-SP2"),
]


def _poison_gradient(share: Share) -> Share:
    """The loss is sound, its gradient is not."""
    return Share(surrogate=share.surrogate * math.nan, loss=share.loss)


def _poison_loss(share: Share) -> Share:
    """The loss is not finite, its gradient is."""
    return Share(surrogate=share.surrogate, loss=math.inf)


def _passes(run: PhaseRun) -> int:
    """Micro-batches of one rank's step: four sequences in pairs over the data-parallel ranks."""
    return 2 // run.data_parallel


def _bad(monkeypatch: pytest.MonkeyPatch, poison: Callable[[Share], Share], *calls: int) -> None:
    """Make the last rank's shares of these micro-batches bad, in whatever forks off from here."""
    sound, seen = NextToken.share, [0]

    def share(self: NextToken, scores: torch.Tensor, part: batch.MicroBatch) -> Share:
        seen[0] += 1
        found = sound(self, scores, part)
        return poison(found) if seen[0] in calls and os.environ["RANK"] == "1" else found

    monkeypatch.setattr(NextToken, "share", share)


def _state(work: Work) -> dict[str, torch.Tensor]:
    state = {}
    for name, _ in work.sharding.names():
        state[name] = work.sharding.weight(name).clone()
        for key in ("exp_avg", "exp_avg_sq"):
            state[f"{key}.{name}"] = work.sharding.moment(name, key).clone()
    return state


def _gradients(work: Work, step: int) -> float:
    """One step's forward and backward passes, and the norm of what they left."""
    parts = batch.micro_batches(work.mixture, work.layout, step=step, device="cpu")
    for part in parts:
        scores = work.sharding.scores(*part.inputs, last=part is parts[-1])
        work.sharding.backward(work.objective.share(scores, part).surrogate / 256)
    return work.sharding.norm()


def _good_skipped_good(run: PhaseRun) -> list[Any]:
    """Norms of three steps, the second skipped; what it changed; Adam's count after each."""
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    work = begin.prepare(run, place, device, Reached())
    norms, counts = [_gradients(work, 0)], []
    work.sharding.step(1e-3)
    counts.append(work.sharding.optimizer_steps())
    before = _state(work)
    norms.append(_gradients(work, 1))
    work.sharding.skip()
    counts.append(work.sharding.optimizer_steps())
    after = _state(work)
    changed = [
        name
        for name in before
        if not torch.equal(before[name].view(torch.int32), after[name].view(torch.int32))
    ]
    norms.append(_gradients(work, 2))
    work.sharding.step(1e-3)
    counts.append(work.sharding.optimizer_steps())
    moved = any(not torch.equal(after[name], value) for name, value in _state(work).items())
    finite = all(bool(torch.isfinite(value).all()) for value in _state(work).values())
    return [norms, changed, counts, moved, finite]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_skipped_step_changes_no_bit_and_the_next_one_trains(
    phases: Phases, layout: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = phases.run(**layout)
    _bad(monkeypatch, _poison_gradient, _passes(run) + 1)
    for norms, changed, counts, moved, finite in phases.together(run, _good_skipped_good):
        assert [math.isfinite(norm) for norm in norms] == [True, False, True]
        assert changed == []
        assert counts == [1, 1, 2]
        assert moved
        assert finite


@pytest.mark.parametrize(
    ("layout", "poison"),
    [
        pytest.param({"processes_per_node": 2}, _poison_gradient, id="DDP-2-gradient"),
        pytest.param({"processes_per_node": 2}, _poison_loss, id="DDP-2-loss"),
        pytest.param(
            {"processes_per_node": 2, "strategy": "ZeRO2"}, _poison_gradient, id="ZeRO2-2-gradient"
        ),
        pytest.param(SEQUENCE_PARALLEL, _poison_gradient, id="ZeRO3-SP2-gradient"),
        pytest.param(SEQUENCE_PARALLEL, _poison_loss, id="ZeRO3-SP2-loss"),
    ],
)
def test_all_ranks_skip_the_step_and_the_batch_counts_as_used(
    phases: Phases,
    layout: dict[str, Any],
    poison: Callable[[Share], Share],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = phases.run(steps=4, **layout)
    _bad(monkeypatch, poison, _passes(run) + 1)
    ended = phases.launch(run)
    lines = steps_of(capfd.readouterr().out)

    assert ended.outcome == "Succeeded", ended.message
    assert (ended.step, ended.tokens) == (4, run.tokens)
    assert [line["tokens"] for line in lines] == [256, 512, 768, 1024]
    assert lines[1]["skipped"].startswith("sequences 4 to 7 of ")
    assert not any("skipped" in lines[n] for n in (0, 2, 3))
    assert all(math.isfinite(lines[n]["loss"]) for n in (0, 2, 3))
    manifest = json.loads((phases.folder(run, 4) / "manifest.json").read_text())
    assert (manifest["step"], manifest["optimizerSteps"], manifest["cursor"]["step"]) == (4, 3, 4)


@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[3]])
def test_a_step_too_many_ends_the_attempt_and_names_the_batch(
    phases: Phases, layout: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = phases.run(
        steps=6, max_skipped_steps=1, checkpoint={"every_steps": 1, "keep_last": 9}, **layout
    )
    passes = _passes(run)
    _bad(monkeypatch, _poison_gradient, passes + 1, 2 * passes + 1)
    ended = phases.launch(run)

    assert ended.outcome == "NonFinite"
    assert "step 3: loss " in ended.message
    assert "on sequences 8 to 11 of " in ended.message
    assert "maxSkippedSteps is 1" in ended.message
    # and while steps are skipped nothing is saved that might be broken
    assert [path.name for path in sorted(_folders(phases, run))] == ["step-00000001"]


def test_a_phase_never_ends_on_a_skipped_step(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    _bad(monkeypatch, _poison_gradient, 2)
    ended = phases.launch(phases.run(steps=2, processes_per_node=2))

    assert ended.outcome == "NonFinite"
    assert "it would be the phase's last" in ended.message


def test_without_a_bad_batch_nothing_is_skipped(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    assert phases.launch(phases.run(max_skipped_steps=0)).outcome == "Succeeded"
    assert all(losses_of(capfd.readouterr().out))


def _folders(phases: Phases, run: PhaseRun) -> list[Path]:
    return list((phases.root / "checkpoints" / run.checkpoint_path).glob("step-*"))
