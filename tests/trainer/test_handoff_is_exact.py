"""A checkpoint crosses from any strategy to any other with every bit of weights and moments."""

import pytest

from curriculum_trainer.manifest import MODEL_FILE, OPTIMIZER_FILE, read, sha256

from .phases import CONTEXT, SEQUENCE_PARALLEL, Phases, load_and_save

pytestmark = pytest.mark.trainer


def _zero(stage: int, processes: int, **more: int) -> dict[str, object]:
    return {"strategy": f"ZeRO{stage}", "processes_per_node": processes, **more}


# 12 rows per step: they divide among 1, 2, 3 and 4 processes, the parameters do not
ROWS = {"global_batch_tokens": 12 * CONTEXT, "micro_batch_size": 1}

LAYOUTS = [
    pytest.param({"processes_per_node": 2}, id="DDP-2"),
    pytest.param({"processes_per_node": 4}, id="DDP-4"),
    pytest.param(_zero(1, 1), id="ZeRO1-1"),
    pytest.param(_zero(1, 2), id="ZeRO1-2"),
    pytest.param(_zero(1, 3), id="ZeRO1-3"),
    pytest.param(_zero(2, 2), id="ZeRO2-2"),
    pytest.param(_zero(2, 4), id="ZeRO2-4"),
    pytest.param(_zero(3, 1), id="ZeRO3-1"),
    pytest.param(_zero(3, 3), id="ZeRO3-3"),
    pytest.param(_zero(3, 4), id="ZeRO3-4"),
    pytest.param(_zero(3, 2, sequence_parallel=2), id="ZeRO3-2-SP2"),
    pytest.param(_zero(3, 4, sequence_parallel=2), id="ZeRO3-4-SP2"),
    pytest.param(_zero(3, 4, sequence_parallel=4), id="ZeRO3-4-SP4"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_and_both_moments_are_bitwise_equal(
    trained: Phases, layout: dict[str, object], request: pytest.FixtureRequest
) -> None:
    """From one process to any layout, and from there back to one."""
    first = trained.run("first", steps=2)
    name = request.node.callspec.id.lower()
    there = trained.after(first, f"to-{name}", **ROWS, **layout)
    assert trained.together(there, load_and_save) == [2] * there.world_size
    back = trained.after(there, f"from-{name}", **ROWS)
    assert trained.together(back, load_and_save) == [2]

    for run in (there, back):
        for file in (MODEL_FILE, OPTIMIZER_FILE):
            assert sha256(trained.folder(run, 0) / file) == sha256(trained.folder(first, 2) / file)


def test_what_was_trained_in_shards_is_the_same_in_one_process(phases: Phases) -> None:
    sharded = phases.run("sharded", steps=2, **SEQUENCE_PARALLEL)
    assert phases.launch(sharded).outcome == "Succeeded"
    run = phases.after(sharded, "back")
    phases.together(run, load_and_save)

    assert read(phases.folder(run, 0)).optimizer_steps == 2
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        assert sha256(phases.folder(run, 0) / name) == sha256(phases.folder(sharded, 2) / name)


def test_another_digest_than_the_verified_one_is_refused(trained: Phases) -> None:
    first = trained.run("first", steps=2)
    ended = trained.launch(trained.after(first, "wrong", init_digest="sha256:" + "0" * 64))

    assert ended.outcome == "CheckpointError"
    assert "it is another checkpoint" in ended.message
