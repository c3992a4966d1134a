"""The plan in the status while a phase trains and after: what is measured takes its place."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from curriculum_api.estimate import measured
from curriculum_api.estimate import plan as estimates
from curriculum_api.v1alpha1.accelerator_class import Measurement
from curriculum_api.wire import Precision, State
from curriculum_operator import plan
from curriculum_operator.status import Difference, difference

from .builders import Scene, curriculum, phase, pool, result, scene, verified
from .planned import RENTED, at, number, timed, told

RUNNING = at(phase(tokens=10**11), phase("code", tokens=10**11)).started().formed().after(600)
METRICS = {"tokens_per_second": "1000.0", "memory/max_reserved(GiB)": "21.37"}


def reports(here: Scene, figures: Mapping[str, str] = METRICS, remaining: int = 7200) -> Scene:
    """The trainer has reported."""
    ((key, beat),) = here.beat().world.beats.items()
    beat = replace(beat, remaining_seconds=remaining, metrics=tuple(figures.items()))
    return here.having(beats={key: beat})


def test_reports_take_the_estimates_place() -> None:
    before = told(RUNNING)
    here = reports(RUNNING)
    after, whole = told(here), here.step().status.plan
    assert (before.basis, after.basis) == (estimates.ESTIMATE, plan.MEASURED)
    assert ("1000", "21.4") == (after.tokens_per_second, after.memory_gib)
    slower = number(before.tokens_per_second) / 1000
    assert number(after.hours) == pytest.approx(number(before.hours) * slower, rel=2e-3)
    assert number(after.usd) == pytest.approx(number(before.usd) * slower, rel=2e-3)
    for end in ("hours_least", "hours_most"):
        # what may yet fail is as uncertain as it was
        assert number(getattr(after, end)) == pytest.approx(
            number(getattr(before, end)) * slower, rel=2e-3
        )
    assert number(after.hours_least) < number(after.hours_most)
    next_phase = number(told(here, "code").hours)
    assert number(whole.hours_to_come) == pytest.approx(2 + next_phase, rel=2e-3)
    assert told(here, "code").basis == estimates.ESTIMATE


def test_what_is_to_come_gets_less_while_a_phase_runs() -> None:
    plans = [reports(RUNNING, METRICS, left).step().status.plan for left in (7200, 3600, 0)]
    hours = [number(one.hours_to_come) for one in plans]
    usd = [number(one.usd_to_come) for one in plans]
    assert hours == sorted(hours, reverse=True)
    assert usd == sorted(usd, reverse=True)
    assert len(set(usd)) == 3


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "fast", "", "1e300", "1e-300"])
def test_a_report_that_makes_no_sense_changes_nothing(value: str) -> None:
    nonsense = {"tokens_per_second": value, "memory/max_reserved(GiB)": value}
    assert told(RUNNING) == told(reports(RUNNING, nonsense))


def test_a_report_tells_the_time_of_a_class_that_cannot_be_timed() -> None:
    rented = scene(curriculum(phases=(RENTED | {"tokens": 3_600_000},))).started().formed()
    here = reports(rented)
    assert ("1", plan.MEASURED) == (told(here, "long").hours, told(here, "long").basis)
    assert number(told(here, "long").usd) == pytest.approx(
        8 * float(pool().spec.price_per_gpu_hour)
    )
    owned = scene(curriculum(phases=(phase(),))).started().formed()
    assert told(reports(owned)).usd is None


def done(here: Scene, **account: Any) -> Scene:
    """The phase ended well and was verified."""
    ended = here.after(3000).pod_ends("master-0", code=0, message=result(**account))
    ended = ended.pod_ends("worker-0", code=0).job_succeeds()
    return ended.stepped().verification(message=verified(**account), succeeded=True).stepped()


def test_a_finished_phase_says_what_it_took() -> None:
    after = done(reports(RUNNING).stepped(), seconds=131.072, tokens=65536)
    first = after.curriculum.status.plan.phases[0]
    assert plan.MEASURED == first.basis
    assert ("21.4", "1") == (first.memory_gib, first.hours)
    assert number(first.tokens_per_second) == pytest.approx(65536 / 131, rel=1e-3)
    assert number(first.usd) > 0
    whole = after.step().status.plan
    assert number(whole.hours_to_come) == pytest.approx(number(whole.phases[1].hours), rel=2e-3)


def test_of_a_failed_curriculum_nothing_is_said_to_come() -> None:
    failed = RUNNING.pod_ends("worker-0", code=2).pod_ends("master-0", code=75).job_fails()
    assert failed.stepped().at_hand.state is State.FAILED
    assert failed.stepped().step().status.plan.hours_to_come is None


# When it is written, and what it costs.


@pytest.mark.parametrize("here", [at(phase()), RUNNING, reports(RUNNING)])
def test_planning_again_changes_nothing(here: Scene) -> None:
    settled = here.stepped()
    assert settled.curriculum.status.plan == settled.after(1).step().status.plan


def test_figures_alone_are_written_no_more_often_than_progress() -> None:
    old = reports(RUNNING).stepped()
    new = reports(old, METRICS | {"tokens_per_second": "900"}).step().status
    assert difference(old.curriculum.status, new) is Difference.PROGRESS


def test_a_curriculum_that_is_read_again_is_not_estimated_again() -> None:
    here = at(phase(tokens=123456789), phase("code"), RENTED)
    here.step()
    before = plan._estimate.cache_info().misses
    spec = here.curriculum.spec.model_copy(deep=True)
    again = replace(here, curriculum=replace(here.curriculum, spec=spec))
    assert again.step().status.plan == here.step().status.plan
    assert before == plan._estimate.cache_info().misses


def test_what_an_estimate_rests_on_is_compared_whole() -> None:
    here = at(phase(tokens=10**9))
    other = at(phase(tokens=10**9, memory={"activationCheckpointing": True}))
    assert told(here).hours != told(other).hours
    cheaper = {"b200-cloud": pool(pricePerGPUHour="1")}
    long = RENTED | {"tokens": 10**10}
    assert told(at(long), "long").usd != told(at(long).having(pools=cheaper), "long").usd


def test_curricula_of_a_sweep_are_not_compared_one_by_one() -> None:
    swept = [at(phase(optimizer={"name": "AdamW", "learningRate": f"{n}e-6"})) for n in (1, 2)]
    swept += [at(phase(microBatchSize=n)) for n in (2, 4)] + [at(phase(globalBatchTokens=32768))]
    kind = timed().spec
    specs = [here.curriculum.spec for here in swept]
    asked = {hash(plan._Asked(spec.phases[0], spec.model, kind, None, ())) for spec in specs}
    assert len(asked) == len(swept)


# What later plans learn.


def seen(efficiency: str, model: str = "") -> tuple[Measurement, ...]:
    """What a Spark was measured to reach with the scenes' model."""
    shape = estimates.shape_of(curriculum().spec.model)
    return (
        Measurement(
            model=model or measured.model(shape),
            precision=Precision.BF16,
            efficiency=efficiency,
            tokens_per_second="0",
        ),
    )


def test_an_attempt_that_ended_well_measures_its_class() -> None:
    unaided = number(told(RUNNING).tokens_per_second)
    account = result(seconds=1000.0, tokens=round(unaided * 500), world_size=2)
    ended = RUNNING.pod_ends("master-0", code=0, message=account).pod_ends("worker-0", code=0)
    step = ended.job_succeeds().step()
    assert step.rule == "ended_well"
    assert step.measured is not None
    assert step.measured.accelerator_class == "gb10-sm121"
    found = step.measured.measurement
    assert float(found.efficiency) == pytest.approx(0.5, rel=5e-3)
    assert float(found.tokens_per_second) == pytest.approx(unaided / 4, rel=1e-3)
    assert RUNNING.ended_well().step().measured is None


def test_a_measurement_is_beside_the_estimate_and_not_beside_the_one_before() -> None:
    """Or every second phase would measure 1."""
    here = at(phase(), spark=timed(measurements=seen("0.5"))).started().formed().after(600)
    unaided = number(told(at(phase())).tokens_per_second)
    account = result(seconds=100.0, tokens=round(unaided * 50), world_size=2)
    ended = here.pod_ends("master-0", code=0, message=account).pod_ends("worker-0", code=0)
    step = ended.job_succeeds().step()
    assert step.measured is not None
    assert float(step.measured.measurement.efficiency) == pytest.approx(0.5, rel=0.02)


def test_a_later_plan_rests_on_it_and_says_so() -> None:
    before = told(at(phase(tokens=10**9)))
    after = told(at(phase(tokens=10**9), spark=timed(measurements=seen("0.5"))))
    assert after.basis.startswith("measured on gb10-sm121, ")
    assert number(after.tokens_per_second) == pytest.approx(
        number(before.tokens_per_second) / 2, rel=1e-3
    )
    assert number(after.hours) > 1.9 * number(before.hours)


def test_an_attempt_on_a_class_that_cannot_be_timed_measures_nothing() -> None:
    here = scene(curriculum(phases=(phase(),))).started().formed()
    account = result(seconds=100.0, tokens=65536, world_size=2)
    ended = here.pod_ends("master-0", code=0, message=account).pod_ends("worker-0", code=0)
    assert ended.job_succeeds().step().measured is None
