"""What is read of objects: what nothing rests on is left out, what makes no sense passed over."""

from typing import Any

import pytest

from curriculum_operator import names, project

from ..edge import things
from .builders import document

SEEN = {"model": "2x64", "precision": "BF16", "efficiency": "0.5", "tokensPerSecond": "9"}


def accelerator(status: Any) -> dict[str, Any]:
    """A class with a status."""
    return {**document("accelerator-class"), "status": status}


def test_a_measurement_that_changes_no_plan_changes_nothing() -> None:
    """Or each finished phase would wake everybody who waits."""
    other = {**SEEN, "model": "1x64"}
    before = project.accelerator_class(accelerator({"measurements": [SEEN, other]}))
    again = {**SEEN, "phases": 7, "tokensPerSecond": "10"}
    after = project.accelerator_class(accelerator({"measurements": [other, again]}))
    assert before == after
    news = {**SEEN, "efficiency": "0.6"}
    assert before != project.accelerator_class(accelerator({"measurements": [news, other]}))


@pytest.mark.parametrize("status", [None, 3, "x", [], {"measurements": 3}, {"measurements": [{}]}])
def test_a_status_that_makes_no_sense_leaves_the_class_as_it_is(status: Any) -> None:
    plain = project.accelerator_class(document("accelerator-class"))
    assert plain == project.accelerator_class(accelerator(status))


@pytest.mark.parametrize("data", [{"lab.env.j2": 5}, ["lab.env.j2"], "lab"])
def test_profiles_that_are_no_texts_are_refused(data: Any) -> None:
    with pytest.raises(ValueError, match='ConfigMap "lab": its data is no texts'):
        project.fabric_profiles({"metadata": {"name": "lab"}, "data": data})


@pytest.mark.parametrize("price", ["1e999999999", "1000000", "1e-400", "nan", "-1"])
def test_a_price_that_no_status_can_hold_is_refused(price: str) -> None:
    pool = document("rented-pool")
    pool["spec"]["pricePerGPUHour"] = price
    with pytest.raises(ValueError, match="pricePerGPUHour"):
        project.rented_pool(pool)


@pytest.mark.parametrize(
    ("annotation", "phases"),
    [
        pytest.param(None, set(), id="none"),
        pytest.param("", set(), id="empty"),
        pytest.param("math", {"math"}, id="one"),
        pytest.param(" math, code ,", {"math", "code"}, id="two"),
        pytest.param("*", {"*"}, id="all"),
    ],
)
def test_phases_that_start_whatever_their_plan_says(
    annotation: str | None, phases: set[str]
) -> None:
    raw = things.curriculum()
    if annotation is not None:
        raw["metadata"]["annotations"] = {names.OVERRIDE_PLAN_ANNOTATION: annotation}
    assert phases == project.curriculum(raw).plan_overrides


@pytest.mark.parametrize(
    ("capacity", "size"),
    [
        ("125506464Ki", 125506464 * 1024),
        ("128Gi", 2**37),
        ("2k", 2000),
        ("5G", 5 * 10**9),
        ("1024", 1024),
        ("", 0),
        ("12e6", 0),
        ("1.5Gi", 0),
    ],
)
def test_a_nodes_memory_is_read_as_kubernetes_writes_it(capacity: str, size: int) -> None:
    raw = {"metadata": {"name": "n"}, "status": {"capacity": {"memory": capacity}}}

    assert project.node(raw).memory_bytes == size
