"""Two operators at once, and operators whose watches come late."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum_operator import kinds

from ..memory.link import Faults
from .backends import MEMORY, Memory
from .documents import curriculum, phase
from .stage import Stage


def overcommitted(stage: Stage) -> list[str]:
    """Nodes whose accelerators more live jobs hold than there are."""
    held: dict[str, int] = {}
    for job in stage.datacentre.view.all(kinds.PYTORCHJOBS):
        if job["metadata"]["name"] in stage.live_jobs(_owner(job)):
            for node in job["metadata"]["annotations"]["curriculum.dev/nodes"].split(","):
                held[node] = held.get(node, 0) + 1
    return [node for node, count in held.items() if count > 1]


def _owner(job: dict[str, object]) -> str:
    labels = job["metadata"]["labels"]  # type: ignore[index]
    name: str = labels["curriculum.dev/curriculum"]
    return name


@pytest.mark.parametrize("lag", [0.0, 0.5])
def test_two_operators_that_both_decide_start_nothing_twice(lag: float) -> None:
    """Each holds a Lease of its own, so that both believe themselves alone."""

    async def play(stage: Stage) -> None:
        await stage.submit(curriculum())
        for name in ("one", "other"):
            stage.operator(
                settings=replace(MEMORY.settings, lease_name=name),
                faults=Faults(lag={kinds.PYTORCHJOBS: lag, kinds.PODS: lag}),
            )
        # They may keep each other from the end; what they must not do is start anything twice.
        await stage.passes(200)
        assert stage.jobs_overlapped == []
        assert stage.witness.overlaps == []
        started = [(run.phase, run.attempt) for run in stage.witness.started]
        assert len(set(started)) == len(started), started
        assert [w for w in stage.writes if w.kind is kinds.PYTORCHJOBS and w.answered]
        jobs = [
            w.name
            for w in stage.writes
            if (w.verb, w.kind) == ("create", kinds.PYTORCHJOBS) and w.answered
        ]
        assert len(set(jobs)) == len(jobs), jobs

    Memory().run(play)


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 1000),
    jobs=st.sampled_from([0.0, 0.3]),
    pods=st.sampled_from([0.0, 0.3]),
    nodes=st.sampled_from([0.0, 1.0]),
)
def test_late_watches_never_over_admit(seed: int, jobs: float, pods: float, nodes: float) -> None:
    async def play(stage: Stage) -> None:
        over: list[str] = []

        async def note() -> None:
            view = stage.datacentre.view
            while True:
                over.extend(overcommitted(stage))
                seen = view.turns
                await view.turn_after(seen)

        noting = stage.group.create_task(note())
        lag = {kinds.PYTORCHJOBS: jobs, kinds.PODS: pods, kinds.NODES: nodes}
        for _ in range(seed % 3):
            # Another seed of the link's dice.
            await stage.operator(faults=Faults(lag=lag)).kill()
        stage.operator(faults=Faults(lag=lag))
        for name in ("one", "two", "three"):
            await stage.submit(curriculum(name, phase("a"), phase("b")))
        for name in ("one", "two", "three"):
            await stage.until_ended(name)
            assert stage.status(name)["state"] == "Succeeded"
        noting.cancel()
        assert over == []
        assert stage.jobs_overlapped == []
        assert stage.witness.overlaps == []

    Memory().run(play)
