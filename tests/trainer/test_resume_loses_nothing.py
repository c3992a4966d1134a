"""A phase that was killed goes on as if it had not been: same losses, same bytes."""

from typing import Any

import pytest

from curriculum_trainer import collective
from curriculum_trainer.manifest import MODEL_FILE, OPTIMIZER_FILE, sha256

from .arming import arm, kill_on_call
from .phases import SEQUENCE_PARALLEL, Phases, losses_of, steps_of

pytestmark = pytest.mark.trainer

STRATEGIES = [
    pytest.param({}, id="DDP-1"),
    pytest.param({"processes_per_node": 2}, id="DDP-2"),
    pytest.param({"strategy": "ZeRO1", "processes_per_node": 2}, id="ZeRO1-2"),
    pytest.param({"strategy": "ZeRO2", "processes_per_node": 2}, id="ZeRO2-2"),
    pytest.param({"strategy": "ZeRO3", "processes_per_node": 2}, id="ZeRO3-2"),
    pytest.param(SEQUENCE_PARALLEL, id="ZeRO3-SP2"),
]


@pytest.mark.parametrize("layout", STRATEGIES)
def test_n_steps_a_kill_and_n_more_are_2n(
    phases: Phases,
    layout: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole = phases.run("whole", steps=6, **layout)
    assert phases.launch(whole).outcome == "Succeeded"
    expected = losses_of(capfd.readouterr().out)
    with monkeypatch.context() as patch:
        # each process ends itself at the first sum after the checkpoint of step 3 is there
        arm(patch, kill_on_call(collective, "total", 1, step=3))
        killed = phases.run("killed", steps=1000, checkpoint={"every_steps": 3}, **layout)
        ended = phases.launch(killed)
    assert ended.message.endswith("was killed by signal 9")
    first = losses_of(capfd.readouterr().out)
    rest = phases.run("killed", steps=6, attempt=2, **layout)
    ended = phases.launch(rest)
    second = steps_of(capfd.readouterr().out)

    assert first[:6] == expected[: len(first)]
    assert [line["loss"] for line in second] == expected[second[0]["step"] - 1 :]
    assert (ended.step, ended.loss_first) == (6, expected[0])
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        assert sha256(phases.folder(rest, 6) / name) == sha256(phases.folder(whole, 6) / name)


FOUR = {"processes_per_node": 4, "micro_batch_size": 1}

CHANGES = [
    pytest.param({}, SEQUENCE_PARALLEL, id="DDP-1-to-ZeRO3-SP2"),
    pytest.param(SEQUENCE_PARALLEL, {}, id="ZeRO3-SP2-to-DDP-1"),
    pytest.param({}, {"strategy": "ZeRO1", "processes_per_node": 2}, id="DDP-1-to-ZeRO1-2"),
    pytest.param({"strategy": "ZeRO2", "processes_per_node": 2}, FOUR, id="ZeRO2-2-to-DDP-4"),
    pytest.param(
        {"processes_per_node": 2},
        {**FOUR, "strategy": "ZeRO3", "sequence_parallel": 2},
        id="DDP-2-to-ZeRO3-4-SP2",
    ),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_another_layout_follows_the_uninterrupted_losses(
    phases: Phases,
    before: dict[str, Any],
    after: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Within 1e-5 of each over the next 20 steps, in FP32: sums in another order, nothing else."""
    assert phases.launch(phases.run("whole", steps=24, **before)).outcome == "Succeeded"
    expected = losses_of(capfd.readouterr().out)
    assert phases.launch(phases.run("moved", steps=4, **before)).outcome == "Succeeded"
    capfd.readouterr()
    ended = phases.launch(phases.run("moved", steps=24, attempt=2, **after))
    losses = losses_of(capfd.readouterr().out)

    assert ended.outcome == "Succeeded"
    assert len(losses) == 20
    assert losses == pytest.approx(expected[4:], rel=1e-5)
    assert losses[-1] < losses[0]


def test_a_finished_phase_is_not_trained_again(
    trained: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = trained.launch(trained.run("first", steps=2, attempt=2))

    assert losses_of(capfd.readouterr().out) == []
    assert (ended.outcome, ended.step) == ("Succeeded", 2)


def test_another_order_of_the_data_is_refused_on_resume(phases: Phases) -> None:
    phases.launch(phases.run("first", steps=1))
    ended = phases.launch(phases.run("first", steps=2, attempt=2, seed=6))

    assert ended.outcome == "CheckpointError"
    assert "another model, data, seed or optimizer" in ended.message
