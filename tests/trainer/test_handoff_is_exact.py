"""A checkpoint crosses from any strategy to any other with every bit of weights and moments."""

import pytest

from curriculum_api.run import PhaseRun
from curriculum_trainer import begin, collective
from curriculum_trainer.manifest import MODEL_FILE, OPTIMIZER_FILE, read, sha256
from curriculum_trainer.result import Reached
from curriculum_trainer.saving import Saver

from .phases import SEQUENCE_PARALLEL, Phases

pytestmark = pytest.mark.trainer


def _load_and_save(run: PhaseRun) -> int:
    """Start a phase and save it before its first step; returns Adam's step count."""
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    reached = Reached()
    work = begin.prepare(run, place, device, reached)
    saver = Saver(work, reached, say=print)
    saver.save()
    saver.finish()
    return work.sharding.optimizer_steps()


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(SEQUENCE_PARALLEL, id="to-ZeRO3-SP2"),
        pytest.param({"strategy": "ZeRO2", "processes_per_node": 2}, id="to-ZeRO2"),
        pytest.param({"strategy": "ZeRO1", "processes_per_node": 2}, id="to-ZeRO1"),
        pytest.param({"strategy": "DDP", "processes_per_node": 2}, id="to-DDP-2"),
    ],
)
def test_weights_and_both_moments_are_bitwise_equal(
    trained: Phases, layout: dict[str, object]
) -> None:
    first = trained.run("first", steps=2)
    name = "-".join(str(value).lower() for value in layout.values())
    run = trained.after(first, f"to-{name}", **layout)
    steps = trained.together(run, _load_and_save)

    assert steps == [2] * run.world_size
    for file in (MODEL_FILE, OPTIMIZER_FILE):
        assert sha256(trained.folder(run, 0) / file) == sha256(trained.folder(first, 2) / file)


def test_and_back_from_sharded_training_to_ddp(phases: Phases) -> None:
    sharded = phases.run("sharded", steps=2, **SEQUENCE_PARALLEL)
    assert phases.launch(sharded).outcome == "Succeeded"
    run = phases.after(sharded, "back")
    phases.together(run, _load_and_save)

    assert read(phases.folder(run, 0)).optimizer_steps == 2
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        assert sha256(phases.folder(run, 0) / name) == sha256(phases.folder(sharded, 2) / name)


def test_another_digest_than_the_verified_one_is_refused(trained: Phases) -> None:
    first = trained.run("first", steps=2)
    ended = trained.launch(trained.after(first, "wrong", init_digest="sha256:" + "0" * 64))

    assert ended.outcome == "CheckpointError"
    assert "it is another checkpoint" in ended.message
