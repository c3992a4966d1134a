"""However a batch is spread over processes, it gives the same losses and gradients."""

import math
from typing import Any, cast

import numpy as np
import pytest

from curriculum_api.run import PhaseRun
from curriculum_trainer import begin, collective, reference, zero
from curriculum_trainer.objective import DirectPreference
from curriculum_trainer.result import Reached

from .gradients import assert_same_gradients
from .phases import SEQUENCE_PARALLEL, Phases, steps_of

pytestmark = pytest.mark.trainer

DDP_SEQUENCE_PARALLEL = {"processes_per_node": 2, "sequence_parallel": 2}

LAYOUTS = [
    pytest.param({"processes_per_node": 2}, id="DDP-2"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO1"}, id="ZeRO1-2"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO3"}, id="ZeRO3-2"),
    pytest.param(SEQUENCE_PARALLEL, id="ZeRO3-SP2"),
]


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(SEQUENCE_PARALLEL, id="ZeRO3-SP2"),
        pytest.param(DDP_SEQUENCE_PARALLEL, id="DDP-SP2"),
        pytest.param({"processes_per_node": 2, "strategy": "ZeRO2"}, id="ZeRO2-2"),
    ],
)
def test_gradients_of_packed_documents_equal_a_single_process(
    phases: Phases, layout: dict[str, Any]
) -> None:
    data = [{"source": "short", "weight": 1}]
    assert_same_gradients(
        phases, phases.run("alone", data=data), phases.run("spread", data=data, **layout)
    )


@pytest.mark.parametrize("strategy", ["ZeRO1", "ZeRO2"])
def test_gradients_of_matrices_larger_than_a_bucket_equal_a_single_process(
    phases: Phases, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """DeepSpeed reduces those where they lie; over two passes, which ZeRO-2 adds up."""
    monkeypatch.setattr(zero, "BUCKET_ELEMENTS", 1000)
    data = [{"source": "short", "weight": 1}]
    layout: dict[str, Any] = {"processes_per_node": 2, "strategy": strategy, "micro_batch_size": 1}
    assert_same_gradients(
        phases, phases.run("alone", data=data), phases.run("spread", data=data, **layout)
    )


def test_gradients_are_right_where_data_and_sequence_parallel_meet(phases: Phases) -> None:
    data = [{"source": "short", "weight": 1}]
    layout: dict[str, Any] = {"processes_per_node": 4, "sequence_parallel": 2, "strategy": "ZeRO3"}
    assert_same_gradients(
        phases, phases.run("alone", data=data), phases.run("spread", data=data, **layout)
    )


def test_gradients_of_dpo_equal_a_single_process(trained: Phases) -> None:
    first = trained.run("first", steps=2)
    changes = {
        "objective": "DPO",
        "data": [{"source": "pairs", "weight": 1}],
        # far from the reference, so that every pair has a weight of its own
        "dpo_beta": 5.0,
    }
    alone = trained.after(first, "dpo-alone", **changes)
    spread = trained.after(first, "dpo-spread", **changes, **SEQUENCE_PARALLEL)
    assert_same_gradients(trained, alone, spread)


def test_losses_and_norms_agree_over_all_layouts(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    """With clipping at work, so that the norm counts."""
    optimizer = {"learning_rate": 3e-3, "schedule": "Constant", "clip_norm": 0.2}
    assert phases.launch(phases.run("alone", steps=4, optimizer=optimizer)).outcome == "Succeeded"
    expected = steps_of(capfd.readouterr().out)
    assert len(expected) == 4
    assert expected[0]["grad_norm"] > 0.2
    for number, layout in enumerate(LAYOUTS):
        run = phases.run(
            f"layout-{number}",
            steps=4,
            optimizer=optimizer,
            **cast("dict[str, Any]", layout.values[0]),
        )
        assert phases.launch(run).outcome == "Succeeded"
        for line, other in zip(expected, steps_of(capfd.readouterr().out), strict=True):
            assert math.isclose(line["loss"], other["loss"], rel_tol=1e-5), (layout.id, line)
            assert math.isclose(line["grad_norm"], other["grad_norm"], rel_tol=1e-4), layout.id


def _reference_scores(run: PhaseRun) -> list[list[float]]:
    """The reference log-probabilities of every pair that the phase will use."""
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    work = begin.prepare(run, place, device, Reached())
    assert isinstance(work.objective, DirectPreference)
    pairs = reference.used_pairs(run, work.mixture, work.layout)
    scores: list[list[float]] = work.objective._reference.scores(pairs).tolist()
    return scores


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(SEQUENCE_PARALLEL, id="ZeRO3-SP2"),
        pytest.param({"processes_per_node": 2, "strategy": "ZeRO3"}, id="ZeRO3-2"),
    ],
)
def test_reference_scores_of_dpo_equal_a_single_process(
    trained: Phases, layout: dict[str, Any]
) -> None:
    first = trained.run("first", steps=2)
    changes: dict[str, Any] = {
        "objective": "DPO",
        "data": [{"source": "pairs", "weight": 1}],
        "steps": 3,
    }
    name = f"reference-sp{layout.get('sequence_parallel', 1)}"
    alone = trained.after(first, f"{name}-alone", **changes)
    (expected,) = trained.together(alone, _reference_scores)
    answers = trained.together(trained.after(first, name, **changes, **layout), _reference_scores)

    assert len(expected) > 8
    assert all(chosen < 0 and rejected < 0 for chosen, rejected in expected)
    for found in answers:
        assert np.allclose(found, expected, rtol=1e-5, atol=0)
