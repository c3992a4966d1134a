"""Whatever happens, in whatever order: one live job, verified checkpoints, an end.

The claims are asserted by the simulation after every single step.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curriculum_api.wire import State

from .simulation import EVENTS, Simulation

HAPPENINGS = st.lists(
    st.tuples(st.sampled_from(EVENTS), st.integers(min_value=0, max_value=500)), max_size=45
)

PROGRESS = ("make_pods", "run_pods")


@settings(
    max_examples=int(os.environ.get("CURRICULUM_EXAMPLES", "120")),
    deadline=None,
    derandomize="CI" in os.environ or "CURRICULUM_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
@given(HAPPENINGS)
def test_any_run_keeps_its_promises_and_ends_once_nothing_goes_wrong(
    happenings: list[tuple[str, int]],
) -> None:
    simulation = Simulation()
    for event, number in happenings:
        simulation.happen(event, number)
    simulation.benign()
    state = simulation.scene.curriculum.status.state
    assert state in (State.SUCCEEDED, State.FAILED)


def test_where_nothing_goes_wrong_each_phase_takes_one_attempt() -> None:
    simulation = Simulation()
    simulation.benign()
    status = simulation.scene.curriculum.status
    assert status.state is State.SUCCEEDED
    assert [phase.attempts for phase in status.phases] == [1, 1]
    assert [phase.failures for phase in status.phases] == [0, 0]


@pytest.mark.parametrize("event", sorted(set(EVENTS)))
@pytest.mark.parametrize("number", [0, 4, 6])
def test_one_event_while_a_gang_runs_does_not_keep_it_from_its_end(event: str, number: int) -> None:
    simulation = Simulation()
    for progress in PROGRESS:
        simulation.happen(progress, 0)
    simulation.happen(event, number)
    simulation.benign()
    assert simulation.scene.curriculum.status.state in (State.SUCCEEDED, State.FAILED)
