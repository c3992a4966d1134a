"""One contender holds the Lease; it passes on after silence, and at once when given up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from curriculum_operator.cluster import LEASES, Raw, Unavailable
from curriculum_operator.lease import Lease, Lost

from ..memory.warp import WarpClock
from .shelf import Shelf, warped


def contender(shelf: Shelf, identity: str, *, drift: float = 0.0) -> Lease:
    return Lease(shelf, WarpClock(drift=drift), name="op", namespace="ns", identity=identity)


def on_shelf(shelf: Shelf) -> Raw:
    return shelf.objects["Lease", "ns", "op"]


@asynccontextmanager
async def keeping(lease: Lease) -> AsyncIterator[asyncio.Task[None]]:
    task: asyncio.Task[None] = asyncio.create_task(lease.keep())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until_lost(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task}, timeout=300)
    with pytest.raises(Lost):
        task.result()


@warped
async def test_the_first_one_takes_it_and_keeps_it_from_others() -> None:
    shelf = Shelf()
    first, second = contender(shelf, "first"), contender(shelf, "second", drift=3600)
    await first.acquire()
    async with keeping(first):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(600):
                await second.acquire()
        assert (first.held, second.held) == (True, False)
        with pytest.raises(Lost):
            second.check()


@warped
async def test_a_holder_that_fell_silent_is_replaced_only_after_it_gave_up_itself() -> None:
    shelf = Shelf()
    first, second = contender(shelf, "first"), contender(shelf, "second", drift=-3600)
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    while not second.held:
        await asyncio.sleep(0.1)
        assert not (first.held and second.held)
    await waiting
    assert on_shelf(shelf)["spec"]["leaseTransitions"] == 1


@warped
async def test_a_lease_that_was_given_up_is_taken_at_the_next_look() -> None:
    shelf = Shelf()
    first, second = contender(shelf, "first"), contender(shelf, "second")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(1)
    await first.release()
    async with asyncio.timeout(3):
        await waiting
    assert (first.held, second.held) == (False, True)


@warped
async def test_a_holder_that_cannot_renew_stops_before_others_may_start() -> None:
    shelf = Shelf()
    lease = contender(shelf, "first")
    await lease.acquire()
    shelf.errors("replace Lease", *[Unavailable("down")] * 99)
    async with keeping(lease) as task:
        began = asyncio.get_running_loop().time()
        await until_lost(task)
        assert asyncio.get_running_loop().time() - began <= 10
        assert not lease.held


@warped
async def test_one_failed_renewal_loses_nothing() -> None:
    shelf = Shelf()
    lease = contender(shelf, "first")
    await lease.acquire()
    shelf.errors("replace Lease", Unavailable("503"))
    async with keeping(lease) as task:
        await asyncio.sleep(60)
        assert lease.held
        assert not task.done()


@warped
async def test_a_conflict_by_somebodys_label_loses_nothing() -> None:
    shelf = Shelf()
    lease = contender(shelf, "first")
    await lease.acquire()
    shelf.put(LEASES, on_shelf(shelf))
    async with keeping(lease) as task:
        await asyncio.sleep(60)
        assert lease.held
        assert not task.done()


@warped
async def test_a_lease_that_another_took_is_lost() -> None:
    shelf = Shelf()
    lease = contender(shelf, "first")
    await lease.acquire()
    taken = on_shelf(shelf)
    shelf.put(LEASES, {**taken, "spec": {**taken["spec"], "holderIdentity": "second"}})
    async with keeping(lease) as task:
        await until_lost(task)
        assert not lease.held
        assert on_shelf(shelf)["spec"]["holderIdentity"] == "second"
