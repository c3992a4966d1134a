"""A curriculum is driven on what is newest, what was begun is finished, nothing starts twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest

from curriculum_operator import lease, observe
from curriculum_operator.cluster import (
    CURRICULA,
    LEASES,
    PYTORCHJOBS,
    Unavailable,
)
from curriculum_operator.engine import Engine
from curriculum_operator.observe import Policy
from curriculum_operator.settings import Settings
from curriculum_operator.step import Step

from ..memory.warp import WarpClock
from . import things
from .shelf import Shelf, warped

Answer = Callable[[observe.Curriculum, observe.World], Step]


class Decider:
    """Stands for the pure core: gives what the test says, and keeps what it was shown."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.shown: list[tuple[observe.Curriculum, frozenset[observe.AttemptKey], dict[Any, str]]]
        self.shown = []

    def __call__(
        self, curriculum: observe.Curriculum, world: observe.World, now: datetime, policy: Policy
    ) -> Step:
        self.shown.append((curriculum, frozenset(world.assumed), dict(world.clashes)))
        return self.answer(curriculum, world)


def start_once(curriculum: observe.Curriculum, world: observe.World) -> Step:
    """Claim the first attempt and make its job; nothing after that."""
    if curriculum.status.phases:
        return keep(curriculum, world)
    return things.step(things.job(), status=things.claimed(), assume=things.assumed())


def keep(curriculum: observe.Curriculum, world: observe.World) -> Step:
    """Change nothing."""
    return things.step(status=curriculum.status.model_dump(exclude_unset=True))


@asynccontextmanager
async def deciding(
    shelf: Shelf, answer: Answer, **options: Any
) -> AsyncIterator[tuple[Engine, Decider]]:
    decider = Decider(answer)
    settings = Settings(lease_namespace="ns", workers=2, **options)
    engine = Engine(shelf, settings, WarpClock(), decide=decider)
    task = asyncio.create_task(engine.run())
    try:
        yield engine, decider
    finally:
        task.cancel()
        await asyncio.wait({task})


def creates(shelf: Shelf) -> int:
    return shelf.calls.count("create PyTorchJob tiny-math-1")


@warped
async def test_a_start_is_claimed_made_and_seen_without_any_watch() -> None:
    shelf = Shelf((CURRICULA, things.curriculum()))
    async with deciding(shelf, start_once) as (engine, decider):
        await asyncio.sleep(30)
        assert creates(shelf) == 1
        assert [job.name for job in engine.stores.jobs.by_owner[things.UID]] == ["tiny-math-1"]
        last, assumed, _ = decider.shown[-1]
        assert last.status.phases[0].attempts == 1
        assert assumed == frozenset()


@warped
async def test_an_event_from_before_our_own_write_is_not_decided_on() -> None:
    shelf = Shelf((CURRICULA, things.curriculum()))
    async with deciding(shelf, start_once) as (engine, decider):
        await asyncio.sleep(30)
        engine.curriculum_event("MODIFIED", things.curriculum(version=101))
        await asyncio.sleep(30)
        assert decider.shown[-1][0].status.phases[0].attempts == 1
        assert creates(shelf) == 1


@warped
async def test_a_create_whose_answer_was_lost_is_finished_before_anything_is_decided() -> None:
    shelf = Shelf((CURRICULA, things.curriculum()))
    shelf.late["create PyTorchJob tiny-math-1"] = Unavailable("timed out")
    async with deciding(shelf, start_once) as (engine, decider):
        await asyncio.sleep(1)
        assert len(decider.shown) == 1
        engine.driver.wake(things.UID)
        await asyncio.sleep(0.5)
        assert len(decider.shown) == 1
        await asyncio.sleep(30)
        assert creates(shelf) == 2
        assert things.UID in engine.stores.jobs.by_owner
        assert all(shown[0].status.phases[0].attempts == 1 for shown in decider.shown[1:])


@warped
async def test_a_start_holds_its_nodes_while_its_create_is_unanswered() -> None:
    other = things.curriculum("other", uid="other-uid")
    shelf = Shelf((CURRICULA, things.curriculum()), (CURRICULA, other))
    shelf.errors("create PyTorchJob", *[Unavailable("503")] * 3)

    def answer(curriculum: observe.Curriculum, world: observe.World) -> Step:
        return (start_once if curriculum.uid == things.UID else keep)(curriculum, world)

    async with deciding(shelf, answer) as (engine, decider):
        await asyncio.sleep(1)
        engine.driver.wake("other-uid")
        await asyncio.sleep(1)
        assert decider.shown[-1][0].uid == "other-uid"
        assert decider.shown[-1][1] == {(things.UID, "math", 1)}
        await asyncio.sleep(60)
        engine.driver.wake("other-uid")
        await asyncio.sleep(1)
        assert decider.shown[-1][1] == frozenset()
        assert things.UID in engine.stores.jobs.by_owner


@warped
async def test_a_claim_that_came_too_late_starts_nothing_and_holds_nothing() -> None:
    shelf = Shelf((CURRICULA, things.curriculum()))

    def answer(curriculum: observe.Curriculum, world: observe.World) -> Step:
        if curriculum.generation == 2:
            return keep(curriculum, world)
        edited = things.curriculum()
        edited["metadata"]["generation"] = 2
        shelf.put(CURRICULA, edited)
        return start_once(curriculum, world)

    async with deciding(shelf, answer) as (_, decider):
        await asyncio.sleep(30)
        assert creates(shelf) == 0
        assert decider.shown[-1][0].generation == 2
        assert decider.shown[-1][1] == frozenset()


@warped
async def test_a_name_that_is_anothers_is_told_and_taken_as_soon_as_it_is_free() -> None:
    shelf = Shelf(
        (CURRICULA, things.curriculum()), (PYTORCHJOBS, things.job(owner="somebody-else"))
    )

    def answer(curriculum: observe.Curriculum, world: observe.World) -> Step:
        if world.clashes and curriculum.status.state != "Pending":
            return things.step(status={**things.claimed(), "cost": "clash"})
        return start_once(curriculum, world)

    async with deciding(shelf, answer) as (engine, decider):
        await asyncio.sleep(60)
        assert "is not its own" in decider.shown[-1][2][things.UID, "math", 1]
        assert decider.shown[-1][1] == frozenset()
        shelf.take(PYTORCHJOBS, "tiny-math-1", "ns")
        await asyncio.sleep(30)
        assert decider.shown[-1][2] == {}
        assert things.UID in engine.stores.jobs.by_owner


@warped
async def test_progress_alone_is_written_at_most_every_fifteen_seconds() -> None:
    shelf = Shelf((CURRICULA, things.curriculum(**things.claimed())))
    percent = 0

    def answer(curriculum: observe.Curriculum, world: observe.World) -> Step:
        nonlocal percent
        percent += 1
        return things.step(status={**things.claimed(), "progress": f"{percent}%"})

    async with deciding(shelf, answer, progress_seconds=15) as (engine, _):
        for _second in range(150):
            engine.driver.wake(things.UID)
            await asyncio.sleep(1)
        writes = shelf.calls.count("status TrainingCurriculum tiny")
        assert 9 <= writes <= 12


@warped
async def test_what_did_not_change_is_not_written() -> None:
    shelf = Shelf((CURRICULA, things.curriculum(**things.claimed())))
    async with deciding(shelf, keep) as (engine, decider):
        for _second in range(50):
            engine.driver.wake(things.UID)
            await asyncio.sleep(1)
        assert len(decider.shown) >= 50
        assert [call for call in shelf.calls if "Lease" not in call] == []


@warped
async def test_a_bug_in_one_curriculum_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = things.curriculum("other", uid="other-uid")
    shelf = Shelf((CURRICULA, things.curriculum()), (CURRICULA, other))

    def answer(curriculum: observe.Curriculum, world: observe.World) -> Step:
        if curriculum.uid == "other-uid":
            raise ZeroDivisionError("a bug")
        return start_once(curriculum, world)

    async with deciding(shelf, answer) as (engine, _):
        await asyncio.sleep(300)
        assert creates(shelf) == 1
        assert 5 <= engine.driver.worklist.failures <= 20
        assert "a bug" in caplog.text


@warped
async def test_nothing_is_decided_before_the_lease_is_held_and_all_is_synced() -> None:
    shelf = Shelf((CURRICULA, things.curriculum()))
    held = {"holderIdentity": "another", "leaseDurationSeconds": 15}
    meta = {"name": "curriculum-operator", "namespace": "ns"}
    shelf.put(LEASES, {"metadata": meta, "spec": held})
    shelf.errors("list Node", *[Unavailable("503")] * 3)
    async with deciding(shelf, start_once) as (engine, decider):
        await asyncio.sleep(10)
        assert (decider.shown, shelf.calls, engine.ready) == ([], [], False)
        await asyncio.sleep(30)
        assert engine.ready
        assert creates(shelf) == 1


@warped
async def test_losing_the_lease_ends_the_engine() -> None:
    shelf = Shelf((CURRICULA, things.curriculum()))
    engine = Engine(shelf, Settings(lease_namespace="ns"), WarpClock(), decide=Decider(keep))
    task = asyncio.create_task(engine.run())
    await asyncio.sleep(2)
    shelf.errors("replace Lease", *[Unavailable("down")] * 99)
    await asyncio.wait({task}, timeout=30)
    with pytest.raises(ExceptionGroup) as caught:
        task.result()
    assert caught.group_contains(lease.Lost)
    assert not engine.ready


@warped
async def test_a_curriculum_whose_end_nobody_told_is_forgotten() -> None:
    shelf = Shelf((CURRICULA, things.curriculum()))
    async with deciding(shelf, keep, resync_seconds=60) as (engine, _):
        await asyncio.sleep(10)
        assert set(engine.driver.curricula) == {things.UID}
        shelf.take(CURRICULA, "tiny", "ns")
        await asyncio.sleep(60)
        assert engine.driver.curricula == {}


@warped
async def test_a_status_that_is_read_again_brings_no_second_copy_of_the_spec() -> None:
    """What is kept by the spec's value, the plan above all, then compares by identity."""
    shelf = Shelf((CURRICULA, things.curriculum()))
    async with deciding(shelf, keep) as (engine, _):
        driver = engine.driver
        driver.take(None, things.curriculum(version=201))
        first = driver.curricula[things.UID]
        driver.take(None, things.curriculum(version=202, phase="math"))
        second = driver.curricula[things.UID]
        assert second.resource_version == "202"
        assert second.status != first.status
        assert second.spec is first.spec
        edited = things.curriculum(version=203)
        edited["metadata"]["generation"] = 2
        edited["spec"]["priority"] = 5
        driver.take(None, edited)
        assert driver.curricula[things.UID].spec.priority == 5
