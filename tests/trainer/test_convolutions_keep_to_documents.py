"""A decoder with short convolutions trains where no row holds two documents, and nowhere else."""

from typing import Any

import pytest

from curriculum_trainer import model
from curriculum_trainer.failures import PhaseFailure

from .phases import MODEL, SEQUENCE_PARALLEL, Phases

pytestmark = pytest.mark.trainer

CONVOLVING: dict[str, Any] = MODEL | {
    "model_type": "lfm2",
    "block_auto_adjust_ff_dim": False,
    "layer_types": ["conv", "full_attention"],
}


def test_rows_of_one_document_train(phases: Phases) -> None:
    one = [{"source": "long", "weight": 1}]
    ended = phases.launch(phases.run(model={"config": CONVOLVING}, data=one, steps=4))
    assert (ended.outcome, ended.step) == ("Succeeded", 4)


def test_a_row_of_several_documents_is_refused(phases: Phases) -> None:
    ended = phases.launch(phases.run(model={"config": CONVOLVING}))
    assert ended.outcome == "DataError"
    assert "a row holds several documents" in ended.message
    assert ended.step == 0


def test_a_split_sequence_is_refused(phases: Phases) -> None:
    split: dict[str, Any] = SEQUENCE_PARALLEL
    run = phases.run(model={"config": CONVOLVING}, **split)
    with pytest.raises(PhaseFailure, match="do not go with sequenceParallel 2"):
        model.config(run)


@pytest.mark.parametrize("kind", ["sliding_attention", "linear_attention"])
def test_other_kinds_of_blocks_are_refused(phases: Phases, kind: str) -> None:
    config = MODEL | {"model_type": "qwen3", "layer_types": [kind, "full_attention"]}
    with pytest.raises(PhaseFailure, match="choose full attention"):
        model.config(phases.run(model={"config": config}))
