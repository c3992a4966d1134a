"""From figures and floors to verdicts: bad nodes are found, and no sound one is blamed."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum_api.preflight import diagnose
from curriculum_api.preflight.diagnose import Diagnosis
from curriculum_api.preflight.figures import Check, Figures, Measured, PairFigures
from curriculum_api.run import PhaseResult
from curriculum_api.wire import Outcome

from .figures import gang, name

FLOORS: Figures = {Check.LINK: 14.0, Check.MATMUL: 64.0, Check.LOSS: 0.5, Check.LATENCY: 1.0}
SEVENTH = 1 / 7

START = st.integers(0, 60)
RANDOM = st.randoms(use_true_random=False)


def suspects(found: Diagnosis) -> set[str]:
    """The nodes that are blamed."""
    return {suspect.node for suspect in found.suspects}


@pytest.mark.parametrize("floors", [{}, FLOORS], ids=["by peers", "by floors"])
@given(data=st.data(), nodes=st.integers(3, 40), start=START)
def test_a_single_slow_link_is_found_and_none_else_blamed(
    floors: Figures, data: st.DataObject, nodes: int, start: int
) -> None:
    slow = data.draw(st.integers(0, nodes - 1))
    share = data.draw(st.floats(0.001, 0.3))
    measured = gang(nodes, slow={slow: share}, start=start, random=data.draw(RANDOM))
    found = diagnose.diagnose(measured, floors)
    assert {name(slow)} == suspects(found)
    assert found.pairs == ()


@pytest.mark.parametrize("floors", [{}, FLOORS], ids=["by peers", "by floors"])
@given(data=st.data(), nodes=st.integers(6, 40), start=START)
def test_two_slow_links_are_found_and_none_else_blamed(
    floors: Figures, data: st.DataObject, nodes: int, start: int
) -> None:
    slow = data.draw(st.lists(st.integers(0, nodes - 1), min_size=2, max_size=2, unique=True))
    both = dict.fromkeys(slow, SEVENTH)
    measured = gang(nodes, slow=both, start=start, random=data.draw(RANDOM))
    found = diagnose.diagnose(measured, floors)
    assert {name(node) for node in slow} == suspects(found)
    assert found.pairs == ()


@given(nodes=st.integers(2, 40), start=START, random=RANDOM)
def test_sound_nodes_are_not_blamed_for_noise(nodes: int, start: int, random: Random) -> None:
    measured = gang(nodes, start=start, random=random)
    for floors in ({}, FLOORS):
        found = diagnose.diagnose(measured, floors)
        assert found.good, found


@given(data=st.data(), nodes=st.integers(3, 40), start=START)
def test_a_node_that_loses_packets_is_found_by_what_was_sent_again(
    data: st.DataObject, nodes: int, start: int
) -> None:
    lossy = data.draw(st.integers(0, nodes - 1))
    found = diagnose.diagnose(gang(nodes, lossy={lossy}, start=start), FLOORS)
    assert {name(lossy)} == suspects(found)
    (told,) = found.findings.suspects
    assert (told.check, told.value, told.unit) == (Check.LOSS, 2.0, "%")


@pytest.mark.parametrize("check", [Check.MATMUL, Check.CLOCK, Check.MTU, Check.SPEED, Check.MEMORY])
@pytest.mark.parametrize("nodes", [2, 3, 20])
def test_a_node_below_half_of_its_peers_needs_no_floor(check: Check, nodes: int) -> None:
    measured = gang(nodes, own={1: {check: 0.2 * gang(1).nodes[0].figures[check]}})
    (told,) = diagnose.diagnose(measured, {}).suspects
    assert ("spark-2", check, True) == (told.node, told.check, told.relative)


def test_a_floor_finds_what_peers_do_not() -> None:
    """At 60 TFLOPS a node is above half of its peers and under its floor of 64."""
    measured = gang(3, own={2: {Check.MATMUL: 60.0}})
    assert diagnose.diagnose(measured, {}).good
    (told,) = diagnose.diagnose(measured, FLOORS).suspects
    assert ("spark-3", 60.0, 64.0, False) == (told.node, told.value, told.floor, told.relative)


def test_of_two_nodes_with_a_slow_link_neither_is_blamed_and_the_pair_is_named() -> None:
    found = diagnose.diagnose(gang(2, slow={1: SEVENTH}), FLOORS)
    assert found.suspects == ()
    (pair,) = found.pairs
    assert ("spark-1", "spark-2") == pair.nodes
    assert not found.good
    assert diagnose.pair_line(pair) == (
        "spark-1 and spark-2: link 2.86 GB/s, floor 14; nothing tells which of them it is"
    )


@pytest.mark.parametrize(
    "own", [{Check.SPEED: 10.0}, {Check.ERRORS: 1.0}, {Check.MTU: 1500.0}], ids=str
)
def test_of_two_nodes_a_figure_of_its_own_tells_which_it_is(own: Figures) -> None:
    measured = gang(2, slow={1: SEVENTH}, own={1: own})
    found = diagnose.diagnose(measured, FLOORS | {Check.ERRORS: 0.01})
    assert {"spark-2"} == suspects(found)
    assert found.pairs == ()


def test_two_nodes_are_not_compared_by_their_one_link() -> None:
    assert diagnose.diagnose(gang(2, slow={1: SEVENTH}), {}).good


def test_what_was_measured_before_with_others_tells_which_of_two_it_is() -> None:
    """Attempts on spark-1 and 2, then on 1 and 3, as the operator puts them together."""
    measured = _pairs({("spark-1", "spark-2"): 2.0, ("spark-1", "spark-3"): 20.0})
    found = diagnose.diagnose(measured, FLOORS)
    assert {"spark-2"} == suspects(found)
    assert found.suspects[0].peer == "spark-1"


def test_the_one_node_of_every_slow_pair_is_to_blame() -> None:
    measured = _pairs({("spark-1", "spark-2"): 2.0, ("spark-2", "spark-3"): 2.0})
    assert {"spark-2"} == suspects(diagnose.diagnose(measured, FLOORS))


def test_where_every_pair_is_slow_nobody_is_blamed() -> None:
    found = diagnose.diagnose(gang(3, slow=dict.fromkeys(range(3), SEVENTH)), FLOORS)
    assert found.suspects == ()
    assert len(found.pairs) == 3


def test_a_slow_path_between_two_sound_nodes_is_only_told() -> None:
    measured = gang(4, noise={(0, 1): 0.1})
    found = diagnose.diagnose(measured, FLOORS)
    assert found.good
    assert found.remarks == (
        "spark-1 and spark-2: link 2 GB/s, floor 14, though both have good partners",
    )


def test_a_path_that_carries_nothing_stops_the_phase_and_blames_nobody() -> None:
    found = diagnose.diagnose(gang(4, noise={(0, 1): 0.0}), FLOORS)
    assert found.suspects == ()
    assert [("spark-1", "spark-2")] == [pair.nodes for pair in found.pairs]


def test_a_pair_that_hangs_needs_no_floor() -> None:
    found = diagnose.diagnose(_pairs({("spark-1", "spark-2"): 0.0}), {})
    (pair,) = found.pairs
    assert diagnose.pair_line(pair) == (
        "spark-1 and spark-2: exchanged nothing in the time of a pair; nothing tells which of them"
        " it is"
    )


@pytest.mark.parametrize("check", [Check.WRITE, Check.READ])
@pytest.mark.parametrize("nodes", [1, 2, 20])
def test_storage_that_is_slow_for_all_is_no_nodes_fault(check: Check, nodes: int) -> None:
    measured = gang(nodes, own={node: {check: 0.1} for node in range(nodes)})
    found = diagnose.diagnose(measured, {check: 0.7})
    assert found.good
    assert "the checkpoint volume is slow for all" in found.remarks[0]


def test_storage_near_its_floor_blames_nobody() -> None:
    own = {0: {Check.WRITE: 0.69}, 1: {Check.WRITE: 0.71}}
    assert diagnose.diagnose(gang(2, own=own), {Check.WRITE: 0.7}).good


def test_storage_that_is_slow_for_one_is_that_nodes() -> None:
    found = diagnose.diagnose(gang(3, own={0: {Check.WRITE: 0.1}}), {Check.WRITE: 0.7})
    assert {"spark-1"} == suspects(found)


def test_a_floor_that_none_of_three_reaches_is_doubted_itself() -> None:
    found = diagnose.diagnose(gang(3), {Check.MATMUL: 500.0})
    assert found.good
    assert found.remarks == (
        "no node reaches its floor: matmul 91 TFLOPS, floor 500 at best (spark-1): doubt the floor"
        " first",
    )


def test_one_node_alone_is_held_to_its_floor() -> None:
    (told,) = diagnose.diagnose(gang(1, own={0: {Check.MATMUL: 18.0}}), FLOORS).suspects
    assert diagnose.sentence(told).startswith("spark-1: matmul 18 TFLOPS, floor 64: look for a low")


def test_figures_are_told_as_people_say_them() -> None:
    (told,) = diagnose.diagnose(gang(3, own={1: {Check.MTU: 1500.0}}), {Check.MTU: 9000.0}).suspects
    assert diagnose.line(told) == "mtu 1500 bytes, floor 9000"


def test_a_suspect_is_told_once_by_what_tells_most() -> None:
    measured = gang(4, slow={3: SEVENTH}, own={3: {Check.MATMUL: 5.0}})
    found = diagnose.diagnose(measured, FLOORS)
    assert [Check.MATMUL, Check.LINK] == [suspect.check for suspect in found.suspects]
    (told,) = found.findings.suspects
    assert told.check is Check.MATMUL


def test_a_hundred_suspects_fit_into_a_termination_message() -> None:
    slow = {node: {Check.MATMUL: 5.0} for node in range(100)}
    found = diagnose.diagnose(gang(201, own=slow), FLOORS)
    findings = found.findings
    assert (len(findings.suspects), findings.more) == (8, 92)
    result = PhaseResult(
        outcome=Outcome.FABRIC_ERROR, phase="pretrain", attempt=1, preflight=findings
    )
    assert len(result.model_dump_json(by_alias=True)) < 2500


def test_the_better_of_two_measurements_counts() -> None:
    first: Figures = {Check.LINK: 2.0, Check.LOSS: 1.0, Check.LATENCY: 0.1}
    second: Figures = {Check.LINK: 20.0, Check.LOSS: 0.0}
    merged = diagnose.merged(first, second)
    assert {Check.LINK: 20.0, Check.LOSS: 0.0, Check.LATENCY: 0.1} == merged


def _pairs(links: dict[tuple[str, str], float]) -> Measured:
    return Measured(
        precision="BF16",
        pairs=tuple(
            PairFigures(nodes=nodes, figures={Check.LINK: link}) for nodes, link in links.items()
        ),
    )
