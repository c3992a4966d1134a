"""Rounds of disjoint pairs: nobody serves two at once, everybody meets enough others, in time."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum_api.preflight import schedule

NODES = st.integers(2, 64)


@given(nodes=NODES, count=st.integers(1, 5), start=st.integers(0, 200))
def test_no_node_is_in_two_pairs_of_a_round_and_no_pair_meets_twice(
    nodes: int, count: int, start: int
) -> None:
    rounds = schedule.rounds(nodes, count, start=start)
    for pairs in rounds:
        busy = [node for pair in pairs for node in pair]
        assert len(busy) == len(set(busy))
        assert all(0 <= one < other < nodes for one, other in pairs)
    met = [pair for pairs in rounds for pair in pairs]
    assert len(met) == len(set(met))


@given(nodes=NODES, count=st.integers(1, 5), start=st.integers(0, 200))
def test_every_node_has_as_many_partners_as_there_are_rounds(
    nodes: int, count: int, start: int
) -> None:
    met = [pair for pairs in schedule.rounds(nodes, count, start=start) for pair in pairs]
    for node in range(nodes):
        partners = sum(node in pair for pair in met)
        assert partners >= min(count, nodes - 1)


@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_small_gangs_meet_all_of_their_pairs(nodes: int) -> None:
    met = {pair for pairs in schedule.rounds(nodes, 1) for pair in pairs}
    assert set(combinations(range(nodes), 2)) == met


def test_a_full_tournament_is_every_pair_once() -> None:
    met = [pair for pairs in schedule.rounds(20, 19) for pair in pairs]
    assert sorted(combinations(range(20), 2)) == sorted(met)


def test_another_start_meets_other_pairs() -> None:
    first, second = (
        {pair for pairs in schedule.rounds(20, 3, start=start) for pair in pairs}
        for start in (0, 3)
    )
    assert not first & second


def test_one_node_meets_nobody() -> None:
    assert schedule.rounds(1, 3) == ()


def test_twenty_nodes_take_less_than_two_minutes_even_where_every_pair_hangs() -> None:
    assert schedule.longest_seconds(20, 3) < 120


@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(10, 19)), unique=True))
def test_pairs_to_measure_again_are_kept_apart(pairs: list[tuple[int, int]]) -> None:
    rounds = schedule.apart(pairs)
    for found in rounds:
        busy = [node for pair in found for node in pair]
        assert len(busy) == len(set(busy))
    assert sorted(pairs) == sorted(pair for found in rounds for pair in found)
