"""What was measured of nodes is kept on them, used while it holds, and judged together."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum_api.preflight.figures import Check, Figures, Measured, NodeFigures, PairFigures
from curriculum_api.v1alpha1.accelerator_class import Preflight
from curriculum_api.wire import Precision
from curriculum_operator import names, observe, record
from curriculum_operator.record import Met, Record

from .builders import NOW, accelerator, node

BF16 = Precision.BF16
KIND = accelerator(
    preflight={"floors": {"linkGBps": "14", "matmulTFLOPS": "64"}, "maxAgeSeconds": 86400}
).spec
SOUND: Figures = {Check.MATMUL: 91.0}


def measured(links: dict[tuple[str, str], float], **own: float) -> Measured:
    """Nodes with these links; `own` are matrix products by node."""
    known = sorted({name for pair in links for name in pair} | own.keys())
    return Measured(
        precision=BF16,
        nodes=tuple(
            NodeFigures(node=name, boot="boot", figures={Check.MATMUL: own.get(name, 91.0)})
            for name in known
        ),
        pairs=tuple(
            PairFigures(nodes=pair, figures={Check.LINK: link}) for pair, link in links.items()
        ),
    )


def bearing(*told: Measured, age: float = 60, **fields: Any) -> list[observe.Node]:
    """Nodes a, b and c after these preflights, one after the other."""
    nodes = {name: node(name, boot_id="boot", **fields) for name in "abc"}
    for one in told:
        for name, there in nodes.items():
            taken = record.taken(name, one, record.read(there), NOW - timedelta(seconds=age))
            if taken is not None:
                marks = {names.PREFLIGHT_ANNOTATION: record.text(taken)}
                nodes[name] = replace(there, annotations=marks)
    return list(nodes.values())


def to_measure(nodes: list[observe.Node], *gang: str, kind: Any = KIND, **when: float) -> bool:
    now = NOW + timedelta(**when)
    asked = [one for one in nodes if one.name in gang]
    return record.to_measure(kind, BF16, asked, nodes, now) is not None


SOUND_PAIR = {("a", "b"): 20.0}


@pytest.mark.parametrize(
    ("nodes", "again"),
    [
        pytest.param(bearing(measured(SOUND_PAIR)), False, id="sound a minute ago"),
        pytest.param(bearing(), True, id="never"),
        pytest.param(bearing(measured(SOUND_PAIR), age=86401), True, id="too old"),
        pytest.param(bearing(measured({("a", "c"): 20.0})), True, id="one of two"),
        pytest.param(bearing(measured({}, a=91.0, b=91.0)), True, id="without a partner"),
        pytest.param(
            bearing(measured({("a", "c"): 20.0, ("b", "c"): 20.0})), False, id="with others"
        ),
        pytest.param(bearing(measured({("a", "b"): 2.0})), True, id="a slow pair"),
        pytest.param(bearing(measured(SOUND_PAIR, a=20.0)), True, id="under a floor by now"),
        pytest.param(
            [replace(n, boot_id="other") for n in bearing(measured(SOUND_PAIR))], True,
            id="booted since",
        ),
    ],
)  # fmt: skip
def test_nodes_are_measured_unless_what_is_known_holds(
    nodes: list[observe.Node], again: bool
) -> None:
    assert again is to_measure(nodes, "a", "b")


def test_one_node_needs_no_partner() -> None:
    assert not to_measure(bearing(measured({}, a=91.0)), "a")
    assert to_measure(bearing(measured({}, a=91.0), age=86401), "a")


def test_another_format_is_measured_again() -> None:
    nodes = bearing(measured(SOUND_PAIR))
    assert record.to_measure(KIND, Precision.FP8, nodes[:2], nodes, NOW) is None, "as BF16"
    assert record.to_measure(KIND, Precision.FP32, nodes[:2], nodes, NOW) is not None


def test_a_gang_that_a_queue_places_is_always_measured() -> None:
    assert record.to_measure(KIND, BF16, [], bearing(measured(SOUND_PAIR)), NOW) is not None


@pytest.mark.parametrize("preflight", [None, Preflight(enabled=False)])
def test_a_class_that_asks_for_nothing_gets_nothing(preflight: Preflight | None) -> None:
    assert not to_measure(bearing(), "a", kind=KIND.model_copy(update={"preflight": preflight}))


def test_no_age_measures_before_every_attempt() -> None:
    kind = accelerator(preflight={"maxAgeSeconds": 0}).spec
    assert to_measure(bearing(measured(SOUND_PAIR), age=0), "a", "b", kind=kind)


def test_two_attempts_together_tell_which_of_a_slow_pair_it_is() -> None:
    second = measured({("a", "c"): 20.0})
    nodes = bearing(measured({("a", "b"): 2.0}), second)
    (told,) = record.suspects(KIND, second, nodes, NOW)
    assert ("b", Check.LINK, 2.0, "a") == (told.node, told.check, told.value, told.peer)


def test_what_an_attempt_says_itself_is_not_said_twice() -> None:
    all_three = measured({("a", "b"): 2.0, ("b", "c"): 2.0, ("a", "c"): 20.0})
    assert record.suspects(KIND, all_three, bearing(all_three), NOW) == ()


def test_a_pair_counts_only_while_it_lies_on_both() -> None:
    """b was in quarantine, which dropped its record: what a remembers of it is old."""
    second = measured({("a", "c"): 20.0})
    nodes = bearing(measured({("a", "b"): 2.0}), second)
    nodes[1] = replace(nodes[1], annotations={})
    assert record.suspects(KIND, second, nodes, NOW) == ()


def test_nor_does_it_count_where_one_of_them_was_measured_with_others_since() -> None:
    """b is back from its quarantine and met c: a still remembers how b once was."""
    second = measured({("a", "c"): 20.0})
    nodes = bearing(measured({("a", "b"): 2.0}), measured({("a", "c"): 20.0}))
    (fresh,) = [one for one in bearing(measured({("b", "c"): 20.0})) if one.name == "b"]
    nodes[1] = fresh
    known = record.put_together(nodes, BF16, timedelta(days=1), NOW)
    assert [("a", "c")] == [pair.nodes for pair in known.pairs]
    assert record.suspects(KIND, second, nodes, NOW) == ()


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"at": 3}', '{"at": "x"}'])
def test_an_annotation_that_cannot_be_read_is_none(text: str) -> None:
    assert record.read(node("a", annotations={names.PREFLIGHT_ANNOTATION: text})) is None


FIGURES = st.dictionaries(
    st.sampled_from(Check), st.floats(0, 1e6).map(lambda value: float(f"{value:.4g}"))
)
TIMES = st.integers(0, 10**6).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(
    kept=st.builds(
        Record,
        at=TIMES,
        boot=st.text("0123456789abcdef-", max_size=36),
        precision=st.sampled_from(Precision),
        figures=FIGURES,
        pairs=st.dictionaries(st.text("ab-.", min_size=1), st.builds(Met, TIMES, FIGURES)),
    )
)
def test_a_record_reads_back_as_it_was_written(kept: Record) -> None:
    marks = {names.PREFLIGHT_ANNOTATION: record.text(kept)}
    assert kept == record.read(node("a", annotations=marks))


def test_a_record_stays_small_however_many_partners_there_were() -> None:
    there = node("a")
    for number in range(100):
        told = measured({("a", f"a-node-with-a-long-name-{number:03}"): 20.123456789})
        now = NOW + timedelta(days=number)
        taken = record.taken("a", told, record.read(there), now)
        assert taken is not None
        there = replace(there, annotations={names.PREFLIGHT_ANNOTATION: record.text(taken)})
    text = there.annotations[names.PREFLIGHT_ANNOTATION]
    assert len(text) < 2048
    partners = json.loads(text)["pairs"]
    assert len(partners) == record.PARTNERS
    assert "a-node-with-a-long-name-099" in partners, "the newest stay"


def test_what_is_no_number_is_left_out() -> None:
    told = measured({("a", "b"): float("nan")}, a=float("inf"))
    taken = record.taken("a", told, None, NOW)
    assert taken is not None
    assert (taken.figures, taken.pairs["b"].figures) == ({}, {})
