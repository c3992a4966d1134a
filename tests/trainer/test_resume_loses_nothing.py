"""A phase that was stopped goes on as if it had not been: same losses, same bytes."""

import pytest

from curriculum_trainer.manifest import MODEL_FILE, OPTIMIZER_FILE, sha256

from .phases import SEQUENCE_PARALLEL, Phases, losses_of

pytestmark = pytest.mark.trainer


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param({}, id="DDP-1"),
        pytest.param(SEQUENCE_PARALLEL, id="ZeRO3-SP2"),
    ],
)
def test_n_steps_and_n_more_are_2n(
    phases: Phases, layout: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    whole = phases.run("whole", steps=4, **layout)
    assert phases.launch(whole).outcome == "Succeeded"
    expected = losses_of(capfd.readouterr().out)
    half = phases.run("halves", steps=2, **layout)
    phases.launch(half)
    rest = phases.run("halves", steps=4, attempt=2, **layout)
    ended = phases.launch(rest)

    assert losses_of(capfd.readouterr().out) == expected
    assert (ended.step, ended.loss_first) == (4, expected[0])
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        assert sha256(phases.folder(rest, 4) / name) == sha256(phases.folder(whole, 4) / name)


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
