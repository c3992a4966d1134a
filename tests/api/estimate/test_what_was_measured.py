"""What training was measured to reach is kept by model and precision, and later plans use it."""

from typing import Any

import pytest

from curriculum_api.estimate import measured, plan
from curriculum_api.v1alpha1.accelerator_class import Measurement
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.wire import Precision

from .inputs import SHAPES, kind

SHAPE = SHAPES["qwen3-4b"]
SPARK = "gb10-sm121"


def phase(**fields: Any) -> Phase:
    """A phase that fits on two Sparks."""
    return Phase.model_validate({
        "name": "math", "acceleratorClass": SPARK, "nodes": 2, "tokens": 10**9,
        "contextLength": 4096, "optimizer": {"learningRate": "3e-4", "name": "AdamW8bit"},
        "data": [{"source": "web"}], **fields,
    })  # fmt: skip


def seen(efficiency: str, precision: Precision = Precision.BF16, **fields: Any) -> Measurement:
    """A measurement of `SHAPE`."""
    return Measurement(
        model=fields.pop("model", measured.model(SHAPE)),
        precision=precision,
        efficiency=efficiency,
        tokens_per_second="100",
        **fields,
    )


def planned(*known: Measurement, **fields: Any) -> plan.PhasePlan:
    """The plan of a phase after what was measured."""
    site = plan.Site(classes={SPARK: kind(SPARK)}, measurements={SPARK: known})
    return plan.of_phase(phase(**fields), SHAPE, site)


def speed(of: plan.PhasePlan) -> float:
    assert of.numbers is not None
    return of.numbers.throughput.tokens_per_second


def test_a_plan_is_scaled_by_what_was_measured_and_says_so() -> None:
    before, after = planned(), planned(seen("0.5"))
    assert before.numbers is not None
    assert after.numbers is not None
    assert speed(after) == pytest.approx(speed(before) / 2)
    assert after.numbers.throughput.mfu == pytest.approx(before.numbers.throughput.mfu / 2)
    assert after.numbers.hours.likely == pytest.approx(2 * before.numbers.hours.likely, rel=0.05)
    assert before.numbers.memory == after.numbers.memory
    assert before.numbers.basis == plan.ESTIMATE
    told = "measured on gb10-sm121, 36x2560 4.02B: 0.5 of the estimate"
    assert told == after.numbers.basis
    assert f"tokens/s {told}" in after.remarks


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(seen("0.5", model="32x4096 8.03B"), id="another model"),
        pytest.param(seen("0.5", Precision.FP8), id="another precision"),
        pytest.param(seen("40"), id="more than the hardware can do"),
    ],
)
def test_what_is_of_something_else_or_cannot_be_is_not_used(other: Measurement) -> None:
    assert planned() == planned(other)


def test_a_finished_phase_measures_itself_beside_its_estimate() -> None:
    found = measured.taken(
        SHAPE, Precision.BF16, estimated=2000.0, tokens=120_000, seconds=100.0, gpus=4
    )
    assert found == seen("0.6").model_copy(update={"tokens_per_second": "300"})


@pytest.mark.parametrize(
    ("tokens", "seconds", "estimated"),
    [
        pytest.param(1000, 59.0, 100.0, id="too short to be warm"),
        pytest.param(0, 100.0, 100.0, id="no tokens"),
        pytest.param(10**400, 100.0, 100.0, id="more than any number"),
        pytest.param(1000, float("nan"), 100.0, id="no number"),
        pytest.param(1000, float("inf"), 100.0, id="for ever"),
        pytest.param(1000, 100.0, 0.0, id="no estimate"),
        pytest.param(10**12, 100.0, 1.0, id="a thousand times too fast"),
    ],
)
def test_what_measures_nothing_is_not_kept(tokens: int, seconds: float, estimated: float) -> None:
    given = {"estimated": estimated, "tokens": tokens, "seconds": seconds}
    assert measured.taken(SHAPE, Precision.BF16, gpus=1, **given) is None  # type: ignore[arg-type]


def test_a_new_measurement_replaces_the_old_one_and_goes_to_the_end() -> None:
    other = seen("0.9", Precision.FP8)
    merged = measured.merged((seen("0.5"), other), seen("0.7"))
    assert merged == (other, seen("0.7", phases=2))


def test_a_change_that_is_no_news_leaves_every_plan_as_it_is() -> None:
    (kept,) = measured.merged((seen("0.5"),), seen("0.52"))
    assert (kept.efficiency, kept.phases) == ("0.5", 2)
    (kept,) = measured.merged((seen("0.5"),), seen("0.53"))
    assert kept.efficiency == "0.53"


def test_the_oldest_give_way() -> None:
    known: tuple[Measurement, ...] = ()
    for number in range(measured.MOST + 3):
        known = measured.merged(known, seen("0.5", model=f"{number}x64"))
    assert [f"{n}x64" for n in range(3, measured.MOST + 3)] == [one.model for one in known]


GOOD = {"model": "2x64", "precision": "BF16", "efficiency": "0.5", "tokensPerSecond": "9"}


@pytest.mark.parametrize(
    ("status", "kept"),
    [
        pytest.param(None, 0, id="none"),
        pytest.param("x", 0, id="text"),
        pytest.param({"measurements": "x"}, 0, id="a text of them"),
        pytest.param({"measurements": {"a": 1}}, 0, id="a map of them"),
        pytest.param({"measurements": [GOOD]}, 1, id="good"),
        pytest.param({"measurements": [{**GOOD, "newer": 1}]}, 1, id="from a newer operator"),
        pytest.param({"measurements": [GOOD, {**GOOD, "efficiency": "0"}]}, 1, id="nothing"),
        pytest.param({"measurements": [GOOD, {**GOOD, "efficiency": "-1"}]}, 1, id="below nothing"),
        pytest.param({"measurements": [GOOD, {**GOOD, "efficiency": "1e999"}]}, 1, id="infinite"),
        pytest.param({"measurements": [GOOD, {**GOOD, "efficiency": "1e-99"}]}, 1, id="too small"),
        pytest.param({"measurements": [3, GOOD, {}, {"model": 1}]}, 1, id="between nonsense"),
        pytest.param({"measurements": [{**GOOD, "precision": "INT3"}]}, 0, id="no such precision"),
        pytest.param({"measurements": [GOOD] * 3}, 1, id="one thing three times"),
    ],
)
def test_what_makes_no_sense_in_a_status_is_passed_over(status: Any, kept: int) -> None:
    assert kept == len(measured.read(status))
