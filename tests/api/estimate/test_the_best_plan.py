"""`optimize` finds what trying everything finds, and its patch makes it so."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum_api.estimate import optimize, plan
from curriculum_api.estimate.optimize import Choice
from curriculum_api.estimate.plan import Site
from curriculum_api.v1alpha1.curriculum import CurriculumSpec
from curriculum_api.v1alpha1.rented_pool import RentedPoolSpec

from .inputs import kind

CLASSES = {name: kind(name) for name in ("gb10-sm121", "b200-sm100")}


def site(*, price: str = "4", lead: int = 900) -> Site:
    """Two rented B200 nodes beside whatever the curriculum owns."""
    pool = RentedPoolSpec.model_validate({
        "acceleratorClass": "b200-sm100",
        "pricePerGPUHour": price,
        "leadTimeSeconds": lead,
        "minimumSeconds": 3600,
        "maxNodes": 2,
    })  # fmt: skip
    return Site(classes=CLASSES, pools={"cloud": pool})


def curriculum(preset: str = "qwen3-4b", *, nodes: int = 3, **phase: Any) -> CurriculumSpec:
    """Two phases, the second longer, on owned Sparks."""
    common = {
        "acceleratorClass": "gb10-sm121",
        "nodes": nodes,
        "tokens": 10_000_000_000,
        "optimizer": {"learningRate": "1e-4"},
        "data": [{"source": "text"}],
        **phase,
    }
    first = {"name": "short", "contextLength": 8192, "globalBatchTokens": 393216}
    second = {"name": "long", "contextLength": 65536, "globalBatchTokens": 3145728}
    return CurriculumSpec.model_validate({
        "model": {"preset": preset},
        "tokenizer": {"path": "tokenizer"},
        "storage": {"data": {"claimName": "a"}, "checkpoints": {"claimName": "b"}},
        "phases": [{**common, **first}, {**common, **second}],
    })  # fmt: skip


def everything(spec: CurriculumSpec, where: Site) -> list[Choice]:
    """All combinations of all layouts of all phases."""
    shape = plan.shape_of(spec.model)
    each = [list(optimize.choices(phase, spec, shape, where)) for phase in spec.phases]
    return [
        Choice(sum(c.hours for c in picked), sum(c.usd for c in picked), ())
        for picked in itertools.product(*each)
    ]


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 3), st.sampled_from(("1.5", "4", "12")), st.sampled_from((0, 900, 86400)))
def test_the_front_and_the_best_are_those_of_trying_everything(
    nodes: int, price: str, lead: int
) -> None:
    spec, where = curriculum(nodes=nodes), site(price=price, lead=lead)
    tried = everything(spec, where)
    front = optimize.front(spec, where)

    for found in front:
        assert not any(
            c.hours < found.hours * (1 - 1e-9) and c.usd < found.usd * (1 - 1e-9) for c in tried
        )
    deadline = (front[0].hours + front[-1].hours) / 2
    budget = (front[0].usd + front[-1].usd) / 2
    cheapest = optimize.of(spec, where, goal="cost", deadline_hours=deadline).plan
    soonest = optimize.of(spec, where, goal="time", budget=budget).plan

    assert cheapest.usd == pytest.approx(min(c.usd for c in tried if c.hours <= deadline))
    assert soonest.hours.likely == pytest.approx(min(c.hours for c in tried if c.usd <= budget))
    assert cheapest.feasible
    assert soonest.feasible


def test_the_patch_makes_the_curriculum_the_best_one() -> None:
    spec = curriculum()
    best = optimize.of(spec, site(), goal="time")
    document = spec.model_dump(mode="json", by_alias=True)
    for change in best.patch:
        *_, place, key = change["path"].split("/")
        if change["op"] == "remove":
            del document["phases"][int(place)][key]
        else:
            document["phases"][int(place)][key] = change["value"]

    assert CurriculumSpec.model_validate(document) == best.spec
    assert optimize.of(best.spec, site(), goal="time").plan.hours.likely <= (
        best.plan.hours.likely * (1 + 1e-9)
    )


def test_what_is_learned_stays_as_it_was() -> None:
    spec = curriculum()
    for before, after in zip(
        spec.phases, optimize.of(spec, site(), goal="cost").spec.phases, strict=True
    ):
        for field in ("tokens", "context_length", "precision", "optimizer", "global_batch_tokens"):
            assert getattr(before, field) == getattr(after, field)


def test_a_bound_that_nothing_keeps_to_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"the soonest takes .* hours and \$.*, the cheapest"):
        optimize.of(curriculum(), site(), goal="cost", deadline_hours=0.01)


def test_counts_of_many_nodes_double() -> None:
    assert optimize.counts(3) == [1, 2, 3]
    assert optimize.counts(200) == [*range(1, 33), 64, 128, 200]
