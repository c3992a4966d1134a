"""Curricula on classes that can be timed, and what their plans say."""

from dataclasses import replace
from typing import Any

from curriculum_api.classes import CLASSES
from curriculum_api.v1alpha1.status import PhasePlan
from curriculum_operator import names, observe

from .builders import Scene, accelerator, b200, curriculum, phase, scene

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
