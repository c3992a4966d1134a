"""A step is written in one order: the claim first; and what a 409 means depends on whose it is."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from curriculum_api.v1alpha1.accelerator_class import Measurement
from curriculum_api.wire import Precision
from curriculum_operator import execute, lease
from curriculum_operator.cluster import (
    CLASSES,
    CURRICULA,
    EVENTS,
    PYTORCHJOBS,
    ClusterError,
    Conflict,
    NotFound,
    Raw,
    Refused,
    Unavailable,
)
from curriculum_operator.decision import Event
from curriculum_operator.execute import Done, End
from curriculum_operator.step import Delete, Measured, Step

from . import things
from .shelf import Shelf, warped

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STARTED = Event("Normal", "PhaseStarted", "Started attempt 1")
OLD = Delete(PYTORCHJOBS, "ns", "tiny-math-0", "old-uid")


def shelf_with(*jobs: Raw) -> Shelf:
    return Shelf((CURRICULA, things.curriculum()), *((PYTORCHJOBS, raw) for raw in jobs))


def old_job(uid: str = "old-uid") -> Raw:
    raw = things.job(0)
    return {**raw, "metadata": {**raw["metadata"], "uid": uid}}


async def run(shelf: Shelf, step: Step, *, write_status: bool = True, version: int = 101) -> Done:
    return await execute.execute(
        step,
        things.subject(version=version),
        shelf,
        check=lambda: None,
        now=NOW,
        write_status=write_status,
    )


FULL = things.step(things.job(), status=things.claimed(), deletes=(OLD,), events=(STARTED,))


@warped
async def test_the_claim_comes_first_then_creates_deletes_and_events() -> None:
    shelf = shelf_with(old_job())
    done = await run(shelf, FULL)
    assert done.end is End.DONE
    assert [" ".join(call.split()[:2]) for call in shelf.calls] == [
        "status TrainingCurriculum",
        "create PyTorchJob",
        "delete PyTorchJob",
        "create Event",
    ]
    assert done.newest is not None
    assert done.newest["status"]["phases"][0]["attempts"] == 1
    assert [kind for kind, _ in done.made] == [PYTORCHJOBS]


@warped
async def test_a_stale_claim_writes_nothing_else() -> None:
    shelf = shelf_with(old_job())
    done = await run(shelf, FULL, version=99)
    assert done.end is End.STALE
    assert shelf.calls == ["status TrainingCurriculum tiny"]


@warped
async def test_a_claim_on_a_deleted_curriculum_writes_nothing_else() -> None:
    shelf = Shelf()
    assert (await run(shelf, FULL)).end is End.GONE
    assert shelf.calls == ["status TrainingCurriculum tiny"]


@pytest.mark.parametrize(
    ("there", "end"),
    [
        pytest.param(things.job(), End.DONE, id="our own"),
        pytest.param(things.job(deleting=True), End.DONE, id="our own, already going away"),
        pytest.param(things.job(owner="other"), End.CLASH, id="another curriculum's"),
        pytest.param(things.job(labelled=7), End.CLASH, id="ours, of another attempt"),
        pytest.param(
            things.job(owner="other", deleting=True), End.WAIT, id="another's, going away"
        ),
        pytest.param(
            {"metadata": {"name": "tiny-math-1", "namespace": "ns"}}, End.CLASH, id="nobody's"
        ),
    ],
)
def test_a_taken_name_is_success_only_where_it_is_this_attempts_own(there: Raw, end: End) -> None:
    @warped
    async def scenario() -> None:
        shelf = shelf_with(there, old_job())
        done = await run(shelf, FULL)
        assert done.end is end
        finished = end is End.DONE
        assert ("delete PyTorchJob tiny-math-0" in shelf.calls) is finished
        assert (done.left is None) is finished
        assert ("is not its own" in done.message) is (end is End.CLASH)

    scenario()


@warped
async def test_a_name_that_is_free_again_when_looked_at_is_tried_once_more() -> None:
    shelf = shelf_with(things.job(owner="other"))
    shelf.errors("get PyTorchJob tiny-math-1", NotFound("gone"))
    assert (await run(shelf, FULL)).end is End.CLASH
    assert shelf.calls.count("create PyTorchJob tiny-math-1") == 2


@pytest.mark.parametrize("error", [Refused(422, "spec.x: must be y"), NotFound("no namespace")])
def test_a_refused_object_is_a_clash_with_the_servers_reason(error: Exception) -> None:
    @warped
    async def scenario() -> None:
        shelf = shelf_with()
        shelf.errors("create PyTorchJob", error)  # type: ignore[arg-type]
        done = await run(shelf, FULL)
        assert done.end is End.CLASH
        assert done.message == f'cannot create PyTorchJob "ns/tiny-math-1": {error}'

    scenario()


@warped
async def test_what_was_interrupted_is_finished_without_a_second_claim() -> None:
    shelf = shelf_with(old_job())
    shelf.late["create PyTorchJob tiny-math-1"] = Unavailable("timed out", retry_after=7)
    done = await run(shelf, FULL)
    assert done.end is End.INTERRUPTED
    assert done.retry_after == 7
    assert not any(call.startswith("create Event") for call in shelf.calls)
    assert done.left is not None
    again = await run(shelf, done.left, write_status=False)
    assert again.end is End.DONE
    assert [kind for kind, _ in again.made] == [PYTORCHJOBS]
    assert shelf.calls.count("status TrainingCurriculum tiny") == 1
    assert "delete PyTorchJob tiny-math-0" in shelf.calls


@warped
async def test_only_what_is_left_is_done_again() -> None:
    shelf = shelf_with(old_job())
    shelf.errors("delete PyTorchJob", Unavailable("503"))
    done = await run(shelf, FULL)
    assert done.end is End.INTERRUPTED
    assert done.left is not None
    assert (done.left.creates, done.left.deletes) == ((), (OLD,))


@pytest.mark.parametrize(
    "jobs", [pytest.param([], id="gone"), pytest.param([old_job("new")], id="another of its name")]
)
def test_a_delete_of_what_is_not_there_any_more_is_success(jobs: list[Raw]) -> None:
    @warped
    async def scenario() -> None:
        shelf = shelf_with(*jobs)
        done = await run(shelf, things.step(deletes=(OLD,)), write_status=False)
        assert done.end is End.DONE
        assert len([k for k in shelf.objects if k[0] == "PyTorchJob"]) == len(jobs)

    scenario()


@pytest.mark.parametrize("error", [Refused(403, "no"), Unavailable("503"), Conflict("quota")])
def test_an_event_that_cannot_be_posted_fails_nothing(error: Exception) -> None:
    @warped
    async def scenario() -> None:
        shelf = shelf_with()
        shelf.errors("create Event", error)  # type: ignore[arg-type]
        assert (await run(shelf, things.step(events=(STARTED,)))).end is End.DONE

    scenario()


@warped
async def test_the_same_event_again_is_counted() -> None:
    shelf = shelf_with()
    for _ in range(3):
        await run(shelf, things.step(events=(STARTED,)), write_status=False)
    (event,) = [raw for key, raw in shelf.objects.items() if key[0] == EVENTS.kind]
    assert event["count"] == 3
    assert event["involvedObject"]["uid"] == things.UID


@pytest.mark.parametrize("allowed", range(4))
def test_without_the_lease_not_one_more_write_happens(allowed: int) -> None:
    @warped
    async def scenario() -> None:
        shelf = shelf_with(old_job())
        asked = 0

        def check() -> None:
            nonlocal asked
            asked += 1
            if asked > allowed:
                raise lease.Lost("not held")

        subject = things.subject(version=101)
        with pytest.raises(lease.Lost):
            await execute.execute(FULL, subject, shelf, check=check, now=NOW)
        assert len(shelf.calls) == allowed

    scenario()


@warped
async def test_a_status_that_is_refused_leaves_everything_undone() -> None:
    shelf = shelf_with(old_job())
    shelf.errors("status TrainingCurriculum", Refused(422, "status.state: must be ..."))
    with pytest.raises(Refused):
        await run(shelf, FULL)
    assert shelf.calls == ["status TrainingCurriculum tiny"]


HALF = Measurement(model="2x64", precision=Precision.BF16, efficiency="0.5", tokens_per_second="9")
MEASURED = replace(
    things.step(status=things.claimed(), events=(STARTED,)), measured=Measured("gb10", HALF)
)


def accelerator(**status: Any) -> Raw:
    return {"metadata": {"name": "gb10"}, "spec": {"gpusPerNode": 1}, "status": status}


def measurements(shelf: Shelf) -> list[str]:
    """What the class's status holds, as efficiency by model."""
    kept = shelf.objects[CLASSES.kind, "", "gb10"]["status"]["measurements"]
    return [f"{one['model']} {one['efficiency']}" for one in kept]


@warped
async def test_what_was_measured_is_kept_beside_what_was_known() -> None:
    other = {"model": "1x8", "precision": "BF16", "efficiency": "2", "tokensPerSecond": "3"}
    shelf = shelf_with()
    shelf.put(CLASSES, accelerator(measurements=[other, "nonsense"]))
    assert (await run(shelf, MEASURED)).end is End.DONE
    assert ["1x8 2", "2x64 0.5"] == measurements(shelf)
    assert [" ".join(call.split()[:2]) for call in shelf.calls] == [
        "status TrainingCurriculum",
        "status AcceleratorClass",
        "create Event",
    ]
    assert shelf.objects[CLASSES.kind, "", "gb10"]["spec"] == {"gpusPerNode": 1}


@warped
async def test_a_class_that_was_changed_meanwhile_is_read_again() -> None:
    shelf = shelf_with()
    shelf.put(CLASSES, accelerator())
    shelf.errors("status AcceleratorClass gb10", Conflict("changed"), Conflict("changed"))
    assert (await run(shelf, MEASURED)).end is End.DONE
    assert ["2x64 0.5"] == measurements(shelf)
    assert 3 == shelf.reads.count("get AcceleratorClass gb10")


@pytest.mark.parametrize(
    "error", [NotFound("gone"), Refused(403, "no"), Unavailable("away"), Conflict("again")]
)
def test_what_cannot_be_kept_fails_no_step(error: ClusterError) -> None:
    @warped
    async def play() -> None:
        shelf = shelf_with()
        shelf.put(CLASSES, accelerator())
        shelf.errors("status AcceleratorClass gb10", *[error] * 9)
        assert (await run(shelf, MEASURED)).end is End.DONE
        assert "status" in shelf.calls[0]
        assert shelf.calls[-1].startswith("create Event")

    play()
