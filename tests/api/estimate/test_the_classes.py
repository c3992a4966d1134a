"""The chart's classes, the built-in ones and the examples are read alike and carry sources."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from curriculum_api.classes import CLASSES
from curriculum_api.estimate import hardware
from curriculum_api.estimate.hardware import Speed
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec

ROOT = Path(__file__).parents[3]
EIGHT = {"image": "trainer", **CLASSES["b200-sm100"]}


def test_built_in_classes_are_the_charts() -> None:
    values = yaml.safe_load((ROOT / "helm/curriculum-operator/values.yaml").read_text())

    assert values["acceleratorClasses"]["classes"] == CLASSES


def documents() -> list[Any]:
    """Specs of every shipped class."""
    examples = yaml.safe_load_all((ROOT / "examples/classes.yaml").read_text())
    found = {document["metadata"]["name"]: document["spec"] for document in examples}
    built_in = {name: {"image": "trainer", **spec} for name, spec in CLASSES.items()}
    return [pytest.param(name, spec, id=name) for name, spec in {**built_in, **found}.items()]


@pytest.mark.parametrize(("name", "spec"), documents())
def test_every_shipped_class_can_be_planned_on(name: str, spec: dict[str, Any]) -> None:
    kind = AcceleratorClassSpec.model_validate(spec)
    found = hardware.of_class(name, kind)

    for precision in kind.trains:
        speed = found.product(precision)
        assert speed.measured <= speed.peak
    assert found.ring.measured <= found.fabric.measured * found.gpus_per_node
    assert found.mttf_hours is not None


def test_a_class_without_figures_says_what_to_add() -> None:
    bare = {k: v for k, v in CLASSES["gb10-sm121"].items() if k != "performance"}
    kind = AcceleratorClassSpec.model_validate({"image": "trainer", **bare})

    with pytest.raises(ValueError, match=r'"x" has no spec\.performance.*add its published'):
        hardware.of_class("x", kind)


@pytest.mark.parametrize("kind", ["reduce", "scatter", "gather"])
@pytest.mark.parametrize("rate", [0.0, 21.0])
def test_a_collective_that_no_link_can_carry_is_refused(kind: str, rate: float) -> None:
    with pytest.raises(ValueError, match=f"at most its peak, not {rate:g} of 20"):
        Speed(20.0, 10.0, **{kind: rate})


def test_a_ring_over_nodes_is_as_fast_as_its_slower_part_in_each_kind() -> None:
    found = replace(
        hardware.of_class("x", AcceleratorClassSpec.model_validate(EIGHT)),
        link=Speed(20.0, 10.0, scatter=9.0, gather=15.0),
        fabric=Speed(2.0, 2.0, reduce=1.0, gather=2.0),
    ).ring

    # eight cards together, or the links inside a node
    assert found == Speed(16.0, 10.0, reduce=8.0, scatter=9.0, gather=15.0)


@pytest.mark.parametrize("rate", ["0", "1e-400"])
def test_attention_that_takes_for_ever_is_refused(rate: str) -> None:
    known = CLASSES["gb10-sm121"]
    performance = {**known["performance"], "attentionTFLOPS": rate}
    given = {"image": "trainer", **known, "performance": performance}
    kind = AcceleratorClassSpec.model_validate(given)

    with pytest.raises(ValueError, match='"x": attentionTFLOPS must be above 0'):
        hardware.of_class("x", kind)


def test_a_measured_rate_above_its_peak_is_refused() -> None:
    with pytest.raises(ValueError, match="at most its peak, not 3 of 2"):
        Speed(peak=2, measured=3)
