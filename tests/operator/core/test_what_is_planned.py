"""The plan in the status before a phase starts: what it says, and what it holds."""

from dataclasses import replace

import pytest

from curriculum_api.classes import CLASSES
from curriculum_api.estimate import plan as estimates
from curriculum_operator import names

from .builders import Scene, accelerator, curriculum, phase, scene
from .planned import BIG, EIGHT_BIT, RENTED, at, number, stalled, timed, told


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
        assert numbers.cost is not None
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


def overriding(here: Scene, *phases: str) -> Scene:
    return replace(here, curriculum=replace(here.curriculum, plan_overrides=frozenset(phases)))


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
    asked = tuple(name.strip() for name in annotation.split(",") if name.strip())
    here = overriding(at(phase(), model=BIG), *asked)
    step = here.step()
    assert rule == step.rule
    assert (rule == "start") == told(here).overridden
    assert not told(here).feasible
    astray = '; curriculum.dev/override-plan names "code", which is no phase'
    assert ("code" in asked and rule == "infeasible") == stalled(here)[2].endswith(astray)
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
