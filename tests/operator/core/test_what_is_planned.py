"""The plan in the status: what holds a phase before it starts, and what is measured after."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from curriculum_api.classes import CLASSES
from curriculum_api.estimate import measured
from curriculum_api.estimate import plan as estimates
from curriculum_api.v1alpha1.accelerator_class import Measurement
from curriculum_api.v1alpha1.status import PhasePlan
from curriculum_api.wire import Precision, State
from curriculum_operator import names, observe, plan
from curriculum_operator.status import Difference, difference

from .builders import Scene, accelerator, b200, curriculum, phase, pool, result, scene, verified

BIG: dict[str, Any] = {"preset": "llama-3.1-8b"}
EIGHT_BIT = {"name": "AdamW8bit", "learningRate": "3e-4"}

RENTED = phase("long", acceleratorClass="b200-sm100", pool="b200-cloud", nodes=1)


def timed(name: str = "gb10-sm121", **fields: Any) -> observe.AcceleratorClass:
    """One of the chart's classes, with its rates."""
    known = CLASSES[name]
    given = {key: known[key] for key in ("performance", "ownership") if key in known}
    made = accelerator(**given) if name == "gb10-sm121" else b200(memoryGiB=178, **given)
    return replace(made, **fields)


def at(
    *phases: dict[str, Any], spark: observe.AcceleratorClass | None = None, **spec: Any
) -> Scene:
    """A curriculum on classes that can be timed."""
    classes = {"gb10-sm121": spark or timed(), "b200-sm100": timed("b200-sm100")}
    return scene(curriculum(phases=phases, **spec), classes=classes)


def told(scene: Scene, name: str = "math") -> PhasePlan:
    """A phase's plan after a step."""
    return next(p for p in scene.step().status.plan.phases if p.name == name)


def stalled(scene: Scene) -> tuple[str, str, str]:
    condition = next(c for c in scene.step().status.conditions if c.type == names.STALLED)
    return condition.status, condition.reason, condition.message


def number(text: str | None) -> float:
    assert text is not None
    return float(text)


# Before it starts.


def test_a_plan_says_what_the_command_says() -> None:
    """The same figures as `curriculum plan`, which has them from the same formulas."""
    here = at(phase(), RENTED)
    spec, world = here.curriculum.spec, here.world
    site = estimates.Site(
        classes={name: kind.spec for name, kind in world.classes.items()},
        pools={name: pool.spec for name, pool in world.pools.items()},
    )
    for planned in estimates.of(spec, site).phases:
        numbers, said = planned.numbers, told(here, planned.phase.name)
        assert numbers is not None
        assert said.basis == estimates.ESTIMATE
        assert said.feasible
        assert number(said.memory_gib) == pytest.approx(numbers.memory.total / 2**30, abs=0.06)
        assert number(said.memory_limit_gib) == numbers.limit / 2**30
        speed = numbers.throughput.tokens_per_second
        assert number(said.tokens_per_second) == pytest.approx(speed, rel=1e-3)
        assert number(said.hours) == pytest.approx(numbers.hours.likely, rel=1e-3)
        assert number(said.hours_least) == pytest.approx(numbers.hours.least, rel=1e-3)
        assert number(said.hours_most) == pytest.approx(numbers.hours.most, rel=1e-3)
        assert number(said.usd) == pytest.approx(numbers.cost.total, abs=0.006)


def test_what_is_to_come_is_the_sum_of_what_is_left() -> None:
    here = at(phase(tokens=10**9), phase("code", tokens=10**9), RENTED)
    whole = here.step().status.plan
    for key in ("hours", "usd"):
        parts = sum(number(getattr(one, key)) for one in whole.phases)
        assert number(getattr(whole, f"{key}_to_come")) == pytest.approx(parts, rel=2e-3)


@pytest.mark.parametrize(
    "here",
    [
        pytest.param(at(phase(), model=BIG), id="it is the first"),
        pytest.param(
            at(phase(optimizer=EIGHT_BIT), phase("code"), model=BIG), id="a later one is it"
        ),
        pytest.param(
            scene(curriculum(phases=(phase(),), model=BIG)), id="of a class that cannot be timed"
        ),
        pytest.param(at(phase(), model=BIG, queueName="gpus"), id="a queue would start it"),
    ],
)
def test_what_does_not_fit_is_held_in_the_plans_words_before_anything_is_made(here: Scene) -> None:
    step = here.step()
    assert (step.rule, step.creates, step.assume) == ("infeasible", (), None)
    status, reason, message = stalled(here)
    assert ("True", names.NOT_FEASIBLE) == (status, reason)
    name = here.curriculum.spec.phases[-1].name
    assert message.startswith(f'phase "{name}": DDP with AdamW needs ')
    assert " of 119 GiB; AdamW8bit needs " in message
    problem = told(here, name).problems[0]
    assert message == f'phase "{name}": {problem}'
    assert not told(here, name).feasible
    site = estimates.Site({n: k.spec for n, k in here.world.classes.items()})
    assert problem in estimates.of(here.curriculum.spec, site).phases[-1].problems
    assert here.stepped().step().status == here.stepped().curriculum.status


def test_a_way_out_that_the_plan_names_is_one() -> None:
    assert at(phase(optimizer=EIGHT_BIT), model=BIG).step().rule == "start"


def test_heads_that_do_not_divide_are_held_too() -> None:
    odd = phase(
        "long", acceleratorClass="b200-sm100", nodes=1, strategy="ZeRO3", sequenceParallel=8,
    )  # fmt: skip
    here = at(odd, model={"config": {"model_type": "llama", "num_attention_heads": 12}})
    assert here.step().rule == "infeasible"
    assert "sequenceParallel 8 does not divide the model's 12 attention heads" in stalled(here)[2]


@pytest.mark.parametrize(
    ("annotation", "rule"),
    [
        pytest.param("math", "start", id="by its name"),
        pytest.param("code, math", "start", id="among others"),
        pytest.param("*", "start", id="all"),
        pytest.param("code", "infeasible", id="another"),
        pytest.param("", "infeasible", id="none"),
    ],
)
def test_an_annotation_overrides_and_that_is_recorded(annotation: str, rule: str) -> None:
    asked = frozenset(name.strip() for name in annotation.split(",") if name.strip())
    here = at(phase(), model=BIG)
    here = replace(here, curriculum=replace(here.curriculum, plan_overrides=asked))
    step = here.step()
    assert rule == step.rule
    assert (rule == "start") == told(here).overridden
    assert not told(here).feasible
    warned = [e for e in step.events if e.reason == names.PLAN_OVERRIDDEN]
    assert (rule == "start") == bool(warned)
    if warned:
        (event,) = warned
        assert event.type == "Warning"
        assert " needs " in event.message


def test_an_override_of_no_phase_is_told_of() -> None:
    here = at(phase(), model=BIG)
    here = replace(
        here, curriculum=replace(here.curriculum, plan_overrides=frozenset({"maths", "zoo"}))
    )
    assert stalled(here)[2].endswith(
        '; curriculum.dev/override-plan names "maths", which is no phase'
    )


def test_a_phase_that_was_tried_is_judged_by_its_attempts() -> None:
    """A class that was changed, or a newer operator's formulas, end nothing that is under way."""
    small = at(phase(optimizer=EIGHT_BIT), model=BIG).started().formed()
    failing = small.pod_ends("worker-0", code=1).pod_ends("master-0", code=75).job_fails()
    again = failing.stepped().having(jobs={}, pods={}).after(60)
    tiny = {"gb10-sm121": timed(spec=accelerator(memoryGiB=40).spec)}
    assert again.having(classes=tiny).step().rule == "start"


UNKNOWN = [
    pytest.param(scene(curriculum(phases=(phase(),))), "has no spec.performance", id="no rates"),
    pytest.param(
        at(phase(), model={"config": {"model_type": "mamba"}}), 'model_type "mamba" is not known',
        id="no such shape",
    ),
    pytest.param(
        at(phase(), model={"config": {"model_type": "llama", "hidden_size": 1e300}}),
        "hidden_size must be from 1 to 1000000000", id="no such width",
    ),
    pytest.param(
        at(phase(), spark=timed("gb10-sm121", spec=accelerator(
            performance={**CLASSES["gb10-sm121"]["performance"], "matmul": [
                {"precision": "BF16", "peakTFLOPS": "1e-320", "source": "x"}]}).spec)),
        "too large or too small", id="a rate of nothing",
    ),
    pytest.param(at(phase(), model={"preset": "gpt-9"}), '"gpt-9" is not known', id="no preset"),
    pytest.param(
        at(phase(precision="FP8"), spark=timed("gb10-sm121", spec=accelerator(
            performance={**CLASSES["gb10-sm121"]["performance"], "matmul": [
                {"precision": "BF16", "peakTFLOPS": "125", "source": "x"}]}).spec)),
        "no speed for FP8", id="no rate of its precision",
    ),
    pytest.param(
        at(phase(tokens=10**9, activeDeadlineSeconds=1)), "activeDeadlineSeconds 1",
        id="a late guess",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("here", "note"), UNKNOWN)
def test_what_cannot_be_known_holds_nothing(here: Scene, note: str) -> None:
    assert here.step().rule == "start"
    assert told(here).feasible
    assert any(note in said for said in told(here).notes), told(here)


def test_memory_is_told_of_a_class_that_cannot_be_timed() -> None:
    here = scene(curriculum(phases=(phase(),)))
    assert told(here).memory_gib == told(at(phase())).memory_gib
    assert (None, "") == (told(here).hours, told(here).basis)
    assert here.step().status.plan.hours_to_come is None


def test_the_demo_is_not_held() -> None:
    """Its Sparks are made up, on amd64: the plan judges the model, not the machine."""
    here = at(phase(), RENTED, spark=timed(spec=accelerator(cpuArchitecture="amd64").spec))
    assert here.step().rule != "infeasible"


# While it trains, and after.

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
    assert after.hours_least == after.hours == after.hours_most
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
