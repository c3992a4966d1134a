"""A whole curriculum, with nothing going wrong."""

from curriculum_operator import kinds, names

from .backends import ON_BOTH, scenario
from .documents import B200, NAMESPACE, RENTED, SPARK, SPARKS, curriculum
from .stage import Stage

PHASES = ["pretrain", "quality", "long", "align"]


@scenario(*ON_BOTH)
async def test_four_phases_succeed_in_order_with_one_job_each(stage: Stage) -> None:
    stage.operator()
    await stage.submit(curriculum())
    await stage.until_ended()
    assert stage.status()["state"] == "Succeeded"
    assert stage.condition("Succeeded")["status"] == "True"
    assert [run.phase for run in stage.witness.started] == PHASES
    jobs = [w.name for w in stage.writes if (w.verb, w.kind) == ("create", kinds.PYTORCHJOBS)]
    assert jobs == [f"slm-{phase}-1" for phase in PHASES]
    assert stage.witness.overlaps == []


@scenario()
async def test_a_phase_is_created_only_after_the_one_before_was_verified(stage: Stage) -> None:
    stage.operator()
    await stage.submit(curriculum())
    await stage.until_ended()
    verified: set[str] = set()
    for write in stage.writes:
        if write.verb == "status":
            phases = write.body["status"]["phases"]
            verified |= {p["name"] for p in phases if p["state"] == "Succeeded"}
        if (write.verb, write.kind) == ("create", kinds.PYTORCHJOBS):
            at = PHASES.index(write.body["metadata"]["labels"][names.PHASE_LABEL])
            assert verified == set(PHASES[:at])
    runs = stage.witness.started
    for before, after in zip(runs, runs[1:], strict=False):
        assert after.init_from == f"{before.checkpoint_path}/step-10"
        assert after.init_digest == stage.witness.checkpoints[after.init_from]


@scenario()
async def test_succeeded_is_not_said_before_the_last_phase(stage: Stage) -> None:
    stage.operator()
    await stage.submit(curriculum())
    await stage.until_ended()
    said = [w.body["status"] for w in stage.writes if w.verb == "status"]
    for status in said:
        done = all(p["state"] == "Succeeded" for p in status["phases"])
        holds = [c["status"] for c in status["conditions"] if c["type"] == "Succeeded"]
        assert (status["state"] == "Succeeded") == (holds == ["True"]) == done


@scenario()
async def test_each_phase_runs_on_the_nodes_of_its_class(stage: Stage) -> None:
    stage.operator()
    await stage.submit(curriculum())
    await stage.until_ended()
    ran = {phase: nodes for (_, phase, _), nodes in stage.witness.nodes.items()}
    assert ran == {
        "pretrain": set(SPARKS),
        "quality": set(SPARKS),
        "long": {RENTED},
        "align": {RENTED},
    }


@scenario()
async def test_nothing_is_written_any_more_after_the_end(stage: Stage) -> None:
    stage.operator()
    await stage.submit(curriculum())
    await stage.until_ended()
    await stage.is_calm()


@scenario()
async def test_no_status_is_written_that_says_what_the_one_before_said(stage: Stage) -> None:
    stage.operator()
    await stage.submit(curriculum())
    await stage.until_ended()
    said = [w.body["status"] for w in stage.writes if w.verb == "status"]
    assert all(one != other for one, other in zip(said, said[1:], strict=False))


@scenario()
async def test_labels_of_kubectl_and_argo_are_not_copied(stage: Stage) -> None:
    stage.operator()
    await stage.submit(curriculum())
    await stage.until_ended()
    for write in stage.writes:
        if write.verb == "create" and write.kind is not kinds.EVENTS:
            meta = write.body["metadata"]
            keys = {*meta["labels"], *meta.get("annotations", {})}
            assert all(key.startswith(f"{names.PREFIX}/") for key in keys)


@scenario()
async def test_nodes_say_their_class_and_lose_it_with_what_it_was_known_by(stage: Stage) -> None:
    stage.operator()

    def said() -> list[str | None]:
        nodes = stage.datacentre.view.all(kinds.NODES)
        return [node["metadata"]["labels"].get(names.CLASS_LABEL) for node in nodes]

    await stage.until(lambda: said() == [B200, SPARK, SPARK], "every node's class")
    await stage.edit(
        SPARKS[0],
        lambda raw: raw["metadata"]["labels"].pop(names.GPU_MAJOR_LABEL),
        kind=kinds.NODES,
    )
    await stage.until(lambda: said() == [B200, None, SPARK], "one label taken away")


@scenario(*ON_BOTH)
async def test_deleting_a_curriculum_leaves_nothing_of_it(stage: Stage) -> None:
    stage.operator()
    await stage.submit(curriculum())
    await stage.until_state("Running", "pretrain")
    await stage.remove(kinds.CURRICULA, "slm")
    view = stage.datacentre.view
    children = (kinds.PYTORCHJOBS, kinds.PODS, kinds.JOBS, kinds.CONFIGMAPS)

    def left() -> list[str]:
        return [
            raw["metadata"]["name"]
            for kind in children
            for raw in view.all(kind)
            if raw["metadata"]["namespace"] == NAMESPACE
            and names.CURRICULUM_LABEL in (raw["metadata"].get("labels") or {})
        ]

    await stage.until(lambda: left() == [], "no child left")
    await stage.is_calm()
