"""An operator that dies at any of its writes: another one brings the curriculum to the same end."""

import functools
from typing import Any

import pytest

from ..memory.link import Crash
from .backends import Memory
from .documents import curriculum
from .stage import Stage

PHASES = ["pretrain", "quality", "long", "align"]


@functools.cache
def reference() -> tuple[int, str]:
    """The number of writes of a run without a crash, and its end."""
    seen: list[tuple[int, str]] = []

    async def play(stage: Stage) -> None:
        await stage.submit(curriculum())
        stage.operator()
        await stage.until_ended()
        await stage.passes(5)
        seen.append((len(stage.writes), repr(end(stage))))

    Memory().run(play)
    return seen[0]


def end(stage: Stage) -> dict[str, Any]:
    """What a run came to, but for times and the numbers of attempts."""
    status = stage.status()
    return {
        "state": status["state"],
        "conditions": [(c["type"], c["status"], c["reason"]) for c in status["conditions"]],
        "phases": [
            (p["name"], p["state"], p["failures"], p["checkpoint"], p["nodes"])
            for p in status["phases"]
        ],
    }


def attempts(stage: Stage) -> list[dict[str, int]]:
    """The attempts of each status that took effect, in order."""
    return [
        {p["name"]: p["attempts"] for p in w.body["status"]["phases"]}
        for w in stage.writes
        if w.verb == "status" and w.answered
    ]


@pytest.mark.parametrize("effective", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("part", range(8))
def test_a_crash_at_any_write_comes_to_the_same_end(part: int, effective: bool) -> None:
    """In eight parts, so that one that fails says about where."""
    num_writes, wanted = reference()
    for at in range(1 + part, num_writes + 1, 8):

        async def play(stage: Stage, at: int = at) -> None:
            await stage.submit(curriculum())
            assert await stage.crashing(Crash(at, effective)), f"no write {at}"
            where = f"crash at write {at}: {stage.operators[0].link.writes[-1]}"
            assert repr(end(stage)) == wanted, where
            check(stage, where)

        Memory().run(play)


def check(stage: Stage, where: str) -> None:
    """What holds of every run, whatever went wrong."""
    assert stage.witness.overlaps == [], where
    assert stage.jobs_overlapped == [], where
    started = [(run.phase, run.attempt) for run in stage.witness.started]
    assert len(set(started)) == len(started), f"{where}: an attempt ran twice: {started}"
    order = [PHASES.index(phase) for phase, _ in started]
    assert order == sorted(order), f"{where}: {started}"
    history = attempts(stage)
    for one, other in zip(history, history[1:], strict=False):
        assert all(other[name] >= one[name] for name in one), f"{where}: attempts fell"
