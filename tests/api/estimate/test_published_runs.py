"""What others measured comes out of the same formulas, with no constant of a single row."""

from typing import Any

import pytest

from . import published

MEMORY, SPEED = 0.15, 0.25
"""How far a prediction may lie from what was measured."""

ROWS = list(published.load().rows())


@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in ROWS if r.gib])
def test_memory_of_one_gpu(row: Any) -> None:
    assert row.predicted_gib() == pytest.approx(row.gib, rel=MEMORY)


@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in ROWS if r.tokens_per_second])
def test_tokens_a_second_of_one_gpu(row: Any) -> None:
    assert row.predicted_tokens() == pytest.approx(row.tokens_per_second, rel=SPEED)


def test_predictions_lean_to_neither_side() -> None:
    """A constant bent to some rows would show as a lean of the others."""
    speed = [r.predicted_tokens() / r.tokens_per_second for r in ROWS if r.tokens_per_second]
    memory = [r.predicted_gib() / r.gib for r in ROWS if r.gib]

    assert sum(speed) / len(speed) == pytest.approx(1, abs=0.08)
    assert sum(memory) / len(memory) == pytest.approx(1, abs=0.08)


def test_a_loss_takes_what_cut_cross_entropy_measured() -> None:
    """24 GB for 8,192 tokens of a vocabulary of 256,000 (arXiv 2411.09009, Gemma 2 2B)."""
    from curriculum_api.estimate import memory

    least = (memory.FUSED_LOGIT_BYTES + memory.LOGIT_BYTES) / 2 * 8192 * 256_000

    assert least == pytest.approx(24e9, rel=0.15)
