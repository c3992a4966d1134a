"""A key is worked on by one at a time, once however often it was woken, and failures pass."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from curriculum_operator import clock, lease
from curriculum_operator.cluster import Unavailable
from curriculum_operator.worklist import Worklist

from .shelf import warped


class Work:
    """Work that takes a second, and counts."""

    def __init__(self) -> None:
        self.done: list[tuple[float, str]] = []
        self.at_work: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.fail: Callable[[str], None] = lambda _: None

    async def __call__(self, key: str) -> None:
        self.at_work[key] += 1
        self.at_work["all"] += 1
        for who in (key, "all"):
            self.most[who] = max(self.most[who], self.at_work[who])
        try:
            await asyncio.sleep(1)
            self.fail(key)
        finally:
            self.at_work[key] -= 1
            self.at_work["all"] -= 1
        self.done.append((clock.monotonic(), key))

    def times(self, key: str) -> list[float]:
        return [round(when, 3) for when, who in self.done if who == key]


@asynccontextmanager
async def serving(work: Work, workers: int = 3) -> AsyncIterator[Worklist]:
    worklist = Worklist(work, workers=workers)
    task = asyncio.create_task(worklist.run())
    try:
        yield worklist
    finally:
        task.cancel()
        await asyncio.wait({task})


@warped
async def test_woken_many_times_while_it_waits_it_is_worked_on_once() -> None:
    work = Work()
    async with serving(work) as worklist:
        for _ in range(50):
            worklist.wake("a")
        await asyncio.sleep(10)
        assert work.times("a") == [1]
        assert worklist.idle()


@warped
async def test_woken_many_times_while_it_is_worked_on_it_is_worked_on_once_more() -> None:
    work = Work()
    async with serving(work) as worklist:
        worklist.wake("a")
        await asyncio.sleep(0.5)
        for _ in range(50):
            worklist.wake("a")
        await asyncio.sleep(10)
        assert work.times("a") == [1, 2]


@warped
async def test_one_key_is_never_worked_on_by_two_and_all_workers_work() -> None:
    work = Work()
    async with serving(work, workers=3) as worklist:
        for second in range(20):
            for key in "abcde":
                worklist.wake(key)
            await asyncio.sleep(0.3 + second % 3)
        await asyncio.sleep(10)
        assert [work.most[key] for key in "abcde"] == [1] * 5
        assert work.most["all"] == 3


@warped
async def test_of_two_times_the_earlier_stays() -> None:
    work = Work()
    async with serving(work) as worklist:
        worklist.wake_in("a", 5)
        worklist.wake_in("a", 50)
        worklist.wake_in("b", 50)
        worklist.wake_in("b", 5)
        await asyncio.sleep(100)
        assert (work.times("a"), work.times("b")) == ([6], [6])


@warped
async def test_what_is_forgotten_is_not_worked_on() -> None:
    work = Work()
    async with serving(work) as worklist:
        worklist.wake("a")
        worklist.wake_in("b", 5)
        worklist.forget("a")
        worklist.forget("b")
        await asyncio.sleep(100)
        assert work.done == []


@warped
async def test_failures_are_tried_again_ever_later_and_the_others_go_on() -> None:
    work = Work()
    failures = 0

    def fail(key: str) -> None:
        nonlocal failures
        if key == "a" and failures < 8:
            failures += 1
            raise ZeroDivisionError("a bug")

    work.fail = fail
    async with serving(work, workers=1) as worklist:
        worklist.wake("a")
        for _ in range(300):
            worklist.wake("a")
            worklist.wake("b")
            await asyncio.sleep(1)
        assert len(work.times("a")) > 0
        assert len(work.times("b")) > 200
        assert worklist.failures == 8
        # 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60 seconds of pauses, give or take a fifth.
        assert 146 < work.times("a")[0] < 240


@warped
async def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    work = Work()
    errors = [Unavailable("429", retry_after=40)]

    def fail(_: str) -> None:
        if errors:
            raise errors.pop()

    work.fail = fail
    async with serving(work) as worklist:
        worklist.wake("a")
        await asyncio.sleep(30)
        worklist.wake("a")
        await asyncio.sleep(100)
        assert work.times("a") == [42]


@warped
async def test_losing_the_lease_ends_all_workers() -> None:
    work = Work()

    def fail(_: str) -> None:
        raise lease.Lost("not held")

    work.fail = fail
    worklist = Worklist(work, workers=3)
    worklist.wake("a")
    with pytest.raises(ExceptionGroup) as caught:
        await worklist.run()
    assert caught.group_contains(lease.Lost)


@warped
async def test_work_that_does_not_end_is_told() -> None:
    async with serving(Work()) as worklist:
        assert worklist.busy_seconds() == 0
        worklist.wake("a")
        await asyncio.sleep(0.75)
        assert worklist.busy_seconds() == pytest.approx(0.75)
