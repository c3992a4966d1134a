"""Where plays run: the cluster in memory, under a time that jumps, or a real API server."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Protocol

import pytest

from curriculum_operator import lease
from curriculum_operator.observe import Policy
from curriculum_operator.settings import Settings

from ..memory.cluster import MemoryCluster
from ..memory.warp import WarpClock, WarpLoop
from .stage import Play, Stage, Tempo, staged

MEMORY = Tempo(
    beat_seconds=1.0,
    settings=Settings(),
    lease=lease.Timing(),
    patience=7200.0,
    calm=2000.0,
    latency=0.003,
)


class Backend(Protocol):
    """Plays a play from a clean cluster on."""

    def run(self, play: Play) -> None: ...


class Memory:
    """In memory, the same way every time."""

    def __init__(self, tempo: Tempo = MEMORY) -> None:
        self._tempo = tempo

    def run(self, play: Play) -> None:
        random.seed(0)
        with asyncio.Runner(loop_factory=WarpLoop) as runner:
            _run(runner, self._play(play))

    async def _play(self, play: Play) -> None:
        clock = WarpClock()
        async with staged(MemoryCluster(clock), clock, self._tempo) as stage:
            await play(stage)


def _run(runner: asyncio.Runner, play: Coroutine[object, object, None]) -> None:
    try:
        runner.run(play)
    except BaseExceptionGroup as group:
        # A play that fails is one failure, whatever group of tasks it was part of.
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


class Named(Protocol):
    """A play that is a function, so that a test can be named after it."""

    __name__: str
    __module__: str

    async def __call__(self, stage: Stage) -> None: ...


def scenario(*where: str) -> Callable[[Named], Callable[[Backend], None]]:
    """Make a test of a play: on the backends that are named, in memory where none is."""
    marked = {
        "memory": "memory",
        "apiserver": pytest.param("apiserver", marks=pytest.mark.apiserver),
    }

    def make(play: Named) -> Callable[[Backend], None]:
        @pytest.mark.parametrize(
            "backend", [marked[name] for name in where or ("memory",)], indirect=True
        )
        def test(backend: Backend) -> None:
            backend.run(play)

        test.__name__ = test.__qualname__ = play.__name__
        test.__doc__, test.__module__ = play.__doc__, play.__module__
        return test

    return make


ON_BOTH = ("memory", "apiserver")
__all__ = ["MEMORY", "ON_BOTH", "Backend", "Memory", "Policy", "scenario"]
