"""Schedules: what the rate is at which token, at the edges too."""

import pytest

from curriculum_api.run import RunOptimizer
from curriculum_trainer.schedule import COSINE_FLOOR, learning_rate

STEP = 10
PHASE = 1000


def _rates(schedule: str, *, warmup: int = 0, tokens: int = PHASE) -> list[float]:
    """The rate of every step of a phase, as a share of the full one."""
    optimizer = RunOptimizer.model_validate(
        {"learning_rate": 2.0, "schedule": schedule, "warmup_tokens": warmup}
    )
    return [
        learning_rate(optimizer, tokens_done=done, step_tokens=STEP, tokens=tokens) / 2
        for done in range(0, tokens, STEP)
    ]


AT = [
    # schedule, warm-up, step (from 1), share of the full rate
    pytest.param("Constant", 0, 1, 1.0, id="constant-starts-full"),
    pytest.param("Constant", 0, 100, 1.0, id="constant-ends-full"),
    pytest.param("Constant", 100, 1, 0.1, id="the-first-step-of-a-warm-up-is-not-zero"),
    pytest.param("Constant", 100, 5, 0.5, id="half-way-up"),
    pytest.param("Constant", 100, 10, 1.0, id="the-last-step-of-a-warm-up-is-full"),
    pytest.param("Constant", 5, 1, 1.0, id="a-warm-up-within-one-step"),
    pytest.param("Constant", 2000, 100, 0.5, id="a-warm-up-longer-than-the-phase-only-rises"),
    pytest.param("Cosine", 0, 50, (1 + COSINE_FLOOR) / 2, id="cosine-half-way"),
    pytest.param("Cosine", 200, 60, (1 + COSINE_FLOOR) / 2, id="cosine-half-way-after-warm-up"),
    pytest.param("Cosine", 0, 100, COSINE_FLOOR, id="cosine-ends-at-its-floor"),
    pytest.param("Cosine", 1000, 100, 1.0, id="cosine-that-is-all-warm-up"),
    pytest.param("Cosine", 2000, 100, 0.5, id="cosine-with-a-warm-up-longer-than-the-phase"),
    pytest.param("WSD", 0, 1, 1.0, id="wsd-starts-full"),
    pytest.param("WSD", 0, 80, 1.0, id="wsd-is-full-up-to-its-decay"),
    pytest.param("WSD", 0, 85, 0.5, id="wsd-falls-by-the-square-root"),
    pytest.param("WSD", 0, 100, 0.0, id="wsd-ends-at-zero"),
    pytest.param("WSD", 900, 89, 0.89 / 0.9, id="wsd-warms-up-into-its-decay"),
    pytest.param("WSD", 900, 95, 1 - 0.75**0.5, id="wsd-decays-after-a-long-warm-up"),
    pytest.param("WSD", 2000, 100, 0.5, id="wsd-with-a-warm-up-longer-than-the-phase"),
]


@pytest.mark.parametrize(("schedule", "warmup", "step", "share"), AT)
def test_the_rate_at_a_step(schedule: str, warmup: int, step: int, share: float) -> None:
    assert _rates(schedule, warmup=warmup)[step - 1] == pytest.approx(share)


@pytest.mark.parametrize("schedule", ["WSD", "Cosine", "Constant"])
@pytest.mark.parametrize("warmup", [0, 7, 250, 995])
def test_the_rate_rises_once_and_then_falls_once(schedule: str, warmup: int) -> None:
    rates = _rates(schedule, warmup=warmup, tokens=995)
    top = rates.index(max(rates))

    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 <= min(rates)
    assert max(rates) <= 1


@pytest.mark.parametrize("schedule", ["WSD", "Cosine", "Constant"])
def test_a_resume_in_the_middle_changes_no_rate(schedule: str) -> None:
    """The rate knows nothing but the tokens done, so it cannot know of attempts."""
    whole = _rates(schedule, warmup=200)
    optimizer = RunOptimizer.model_validate(
        {"learning_rate": 2.0, "schedule": schedule, "warmup_tokens": 200}
    )
    for resumed_at in (0, 100, 500, 850, 990):
        rest = [
            learning_rate(optimizer, tokens_done=done, step_tokens=STEP, tokens=PHASE) / 2
            for done in range(resumed_at, PHASE, STEP)
        ]
        assert rest == whole[resumed_at // STEP :]
