"""What does not fit is held before anything is made, and what was measured serves later plans."""

from typing import Any

from curriculum_api.classes import CLASSES
from curriculum_operator import kinds, names

from .backends import ON_BOTH, scenario
from .documents import SPARK, SPARKS, curriculum, phase
from .stage import Stage

BIG = {"preset": "llama-3.1-8b"}


def plan(stage: Stage, phase: str, name: str = "slm") -> dict[str, Any]:
    """What a status says of a phase's plan."""
    found: list[dict[str, Any]] = stage.status(name).get("plan", {}).get("phases", [])
    return next((one for one in found if one["name"] == phase), {})


async def time_sparks(stage: Stage) -> None:
    """Give the Sparks' class its rates."""
    rates = CLASSES[SPARK]["performance"]
    await stage.edit(SPARK, lambda raw: raw["spec"].update(performance=rates), kinds.CLASSES)


@scenario(*ON_BOTH)
async def test_a_phase_that_does_not_fit_is_held_until_an_annotation_lets_it_go(
    stage: Stage,
) -> None:
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain"), model=BIG))
    stalled = await stage.until_condition("Stalled", names.NOT_FEASIBLE)
    assert 'phase "pretrain": DDP with AdamW needs ' in stalled["message"]
    assert "AdamW8bit needs " in stalled["message"]
    assert plan(stage, "pretrain")["feasible"] is False
    await stage.is_calm()
    assert {write.kind for write in stage.writes} <= {kinds.CURRICULA, kinds.LEASES, kinds.NODES}
    key, value = names.OVERRIDE_PLAN_ANNOTATION, "pretrain"
    await stage.edit("slm", lambda raw: raw["metadata"]["annotations"].update({key: value}))
    await stage.until_ended()
    assert (stage.status()["state"], plan(stage, "pretrain")["overridden"]) == ("Succeeded", True)
    events = [
        w.body["reason"] for w in stage.writes if (w.verb, w.kind) == ("create", kinds.EVENTS)
    ]
    assert events.count(names.PLAN_OVERRIDDEN) == 1


@scenario()
async def test_what_does_not_fit_keeps_no_nodes_from_others(stage: Stage) -> None:
    stage.operator()
    await stage.submit(curriculum("big", phase("pretrain"), model=BIG))
    await stage.until_condition("Stalled", names.NOT_FEASIBLE, "big")
    await stage.submit(curriculum("slm", phase("pretrain")))
    await stage.until_ended()
    assert stage.phase("pretrain")["nodes"] == list(SPARKS)


@scenario(*ON_BOTH)
async def test_what_a_phase_measures_serves_the_plans_after_it(stage: Stage) -> None:
    await time_sparks(stage)
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain")))
    await stage.until_ended()
    assert plan(stage, "pretrain")["basis"] == "measured"
    await stage.submit(curriculum("next", phase("pretrain")))
    await stage.until(lambda: plan(stage, "pretrain", "next").get("basis"), "a plan")
    assert plan(stage, "pretrain", "next")["basis"].startswith(f"measured on {SPARK}, ")
    kept = (await stage.admin.get(kinds.CLASSES, SPARK))["status"]["measurements"]
    assert [(one["precision"], one["phases"]) for one in kept] == [("BF16", 1)]
    assert float(kept[0]["tokensPerSecond"]) == 60000 / 120 / 2
    await stage.until_ended("next")
    await stage.is_calm()
