"""What users and administrators do while a curriculum runs."""

from curriculum_operator import kinds, names

from ..memory.link import Faults
from ..memory.script import RUNS_ON
from .backends import ON_BOTH, scenario
from .documents import NAMESPACE, POOL, SPARK, claims, classes, curriculum, phase, pool
from .stage import Stage


@scenario(*ON_BOTH)
async def test_suspending_ends_the_job_and_resuming_is_the_next_attempt(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = RUNS_ON
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain")))
    await stage.until_state("Running", "pretrain")
    await stage.edit("slm", lambda raw: raw["spec"].update(suspend=True))
    await stage.until(lambda: stage.condition("Suspended").get("status") == "True", "suspended")
    assert stage.live_jobs() == []
    assert stage.witness.running == {}
    await stage.edit("slm", lambda raw: raw["spec"].update(suspend=False))
    await stage.until_ended()
    one = stage.phase("pretrain")
    assert (one["state"], one["attempts"], one["failures"]) == ("Succeeded", 2, 0)


@scenario()
async def test_an_object_that_has_a_childs_name_is_not_touched(stage: Stage) -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "slm-pretrain-1", "namespace": NAMESPACE},
        "data": {"mine": "yes"},
    }
    before = await stage.submit(foreign)
    stage.operator()
    await stage.submit(curriculum("slm", phase("pretrain")))
    stalled = await stage.until_condition("Stalled", names.NAME_TAKEN)
    assert "slm-pretrain-1" in stalled["message"]
    await stage.passes(300)
    assert await stage.admin.get(kinds.CONFIGMAPS, "slm-pretrain-1", NAMESPACE) == before
    assert stage.live_jobs() == []


@scenario()
async def test_an_edit_between_decision_and_claim_is_decided_on_anew(stage: Stage) -> None:
    edited: list[str] = []

    async def before(verb: str, kind: kinds.Kind, name: str) -> None:
        if (verb, kind) == ("status", kinds.CURRICULA) and not edited:
            edited.append(name)
            await stage.edit("slm", lambda raw: raw["spec"]["phases"][0].update(tokens=70000))

    stage.operator(faults=Faults(before=before))
    await stage.submit(curriculum("slm", phase("pretrain")))
    await stage.until_ended()
    assert edited == ["slm"]
    assert [run.tokens for run in stage.witness.started] == [70000]
    assert stage.status()["state"] == "Succeeded"


@scenario()
async def test_what_is_missing_stalls_until_it_appears(stage: Stage) -> None:
    await stage.remove(kinds.CLASSES, SPARK)
    await stage.remove(kinds.POOLS, POOL)
    await stage.remove(kinds.CLAIMS, "checkpoints")
    stage.operator()
    await stage.submit(curriculum())
    for body, missing in ((classes()[0], SPARK), (claims()[1], "checkpoints"), (pool(), POOL)):
        text = f'"{missing}" does not exist'
        await stage.until_message("Stalled", text)
        assert stage.condition("Stalled")["status"] == "True"
        assert stage.witness.started == []
        await stage.submit(body)
    await stage.until_ended()
    assert stage.status()["state"] == "Succeeded"


@scenario()
async def test_curricula_on_the_same_nodes_go_by_priority_and_then_by_age(stage: Stage) -> None:
    first = stage.operator()
    await stage.submit(curriculum("first", phase("one")))
    await stage.until_state("Running", "one", "first")
    await stage.submit(curriculum("older", phase("one")))
    await stage.passes(2)
    await stage.submit(curriculum("younger", phase("one")))
    await stage.passes(2)
    await stage.submit(curriculum("urgent", phase("one"), priority=5))
    await stage.until(lambda: "nodes have 1 free" in stage.phase("one", "older")["message"], "wait")
    for name in ("first", "older", "younger", "urgent"):
        await stage.until_ended(name)
    order = [run.curriculum for run in stage.witness.started]
    assert order == ["first", "urgent", "older", "younger"]
    assert first.link.writes
