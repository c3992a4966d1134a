"""A quarantine begins by what was found, ends by the time, and an administrator ends it sooner."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from curriculum_api.preflight.figures import Check, Suspect
from curriculum_api.wire import Outcome, State
from curriculum_operator import names, observe, quarantine, record
from curriculum_operator.quarantine import Change, Finding

from .builders import NOW, accelerator, node, result, scene, world
from .test_what_is_known_of_nodes import bearing, measured
from .test_who_may_start import answer, waiting

SUSPECT = Suspect(node="a", check=Check.LINK, value=0.17, floor=0.8, unit="GB/s", peer="b")
HOUR = 3600.0
MINUTE = timedelta(minutes=1)


def change(there: observe.Node, now: datetime = NOW, **given: Any) -> Change | None:
    fields: dict[str, Any] = {"finding": None, "measured": None, "seconds": HOUR, **given}
    return quarantine.change(there, now=now, **fields)


def written(there: observe.Node, made: Change | None) -> observe.Node:
    """The node after a change, as the API server stores it."""
    assert made is not None
    labels = {key: v for key, v in {**there.labels, **made.labels}.items() if v is not None}
    annotations = {
        key: v for key, v in {**there.annotations, **made.annotations}.items() if v is not None
    }
    taints = tuple(t for t in there.taints if t.key != names.QUARANTINE_TAINT)
    if made.taint is not None:
        taints += (observe.Taint(names.QUARANTINE_TAINT, made.taint, "NoSchedule"),)
    return replace(there, labels=labels, annotations=annotations, taints=taints)


KEPT = written(node("a"), change(node("a"), finding=Finding(SUSPECT, NOW)))


def test_it_is_written_once_and_says_why_and_until_when() -> None:
    assert quarantine.taint(KEPT) == "link"
    assert KEPT.labels[names.QUARANTINED_LABEL] == "link"
    assert quarantine.obstacle(KEPT) == (
        "is in quarantine until 2026-01-01 13:00 UTC: link 0.17 GB/s, floor 0.8"
    )
    assert change(KEPT, finding=Finding(SUSPECT, NOW)) is None
    assert change(KEPT) is None
    assert quarantine.ends_in(KEPT, NOW + MINUTE) == HOUR - 60


def test_what_was_measured_before_goes_with_it() -> None:
    there = bearing(measured({("a", "b"): 20.0}))[0]
    kept = written(there, change(there, finding=Finding(SUSPECT, NOW)))
    assert names.PREFLIGHT_ANNOTATION not in kept.annotations


def test_it_ends_by_itself_and_leaves_nothing_behind() -> None:
    made = change(KEPT, NOW + timedelta(hours=1))
    assert made is not None
    assert made.ends
    free = written(KEPT, made)
    assert free == node("a")
    assert change(free, NOW + timedelta(hours=1)) is None


def test_an_old_finding_does_not_begin_it_again() -> None:
    """The pod that told it is still there when the operator is started anew."""
    free = written(KEPT, change(KEPT, NOW + timedelta(hours=1)))
    assert change(free, NOW + timedelta(hours=1), finding=Finding(SUSPECT, NOW)) is None


def test_what_is_found_while_it_lasts_does_not_prolong_it() -> None:
    assert change(KEPT, NOW + MINUTE, finding=Finding(SUSPECT, NOW + MINUTE)) is None


def test_a_node_that_is_kept_gets_no_record() -> None:
    """What was measured before it was kept may come late."""
    late = record.taken("a", measured({("a", "b"): 20.0}), None, NOW)
    assert change(KEPT, measured=late) is None
    assert change(node("a"), measured=late) is not None


def test_without_the_taint_it_is_over_until_something_new_is_found() -> None:
    lifted = replace(KEPT, taints=())
    lifted = written(lifted, change(lifted, NOW + MINUTE, finding=Finding(SUSPECT, NOW)))
    assert quarantine.obstacle(lifted) is None
    assert names.QUARANTINED_LABEL not in lifted.labels
    assert change(lifted, NOW + MINUTE, finding=Finding(SUSPECT, NOW)) is None
    again = written(lifted, change(lifted, NOW + MINUTE, finding=Finding(SUSPECT, NOW + MINUTE)))
    assert quarantine.taint(again) == "link"


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"since": 1, "until": 2}'])
def test_a_taint_without_a_readable_reason_is_removed(text: str | None) -> None:
    marks = {} if text is None else {names.QUARANTINE_ANNOTATION: text}
    free = written(replace(KEPT, annotations=marks), change(replace(KEPT, annotations=marks)))
    assert free == node("a")


def test_a_class_without_a_preflight_keeps_no_node() -> None:
    assert change(node("a"), finding=Finding(SUSPECT, NOW), seconds=None) is None


def test_other_taints_are_not_looked_at() -> None:
    other = observe.Taint("example.com/rack", "3", "NoSchedule")
    assert change(node("a", taints=(other,))) is None


# Admission.


def test_a_kept_node_is_not_chosen_and_the_reason_is_told() -> None:
    nodes = {one.name: one for one in (KEPT, node("b"), node("c"))}
    assert answer(waiting("x"), nodes=nodes) == ("b", "c")
    del nodes["c"]
    assert answer(waiting("x"), nodes=nodes) == (
        'accelerator class "gb10-sm121": 1 of 2 nodes Ready ("a" is in quarantine until'
        " 2026-01-01 13:00 UTC: link 0.17 GB/s, floor 0.8)"
    )


def test_not_even_a_class_that_tolerates_everything_uses_it() -> None:
    tolerant = accelerator(tolerations=[{"operator": "Exists"}])
    nodes = {one.name: one for one in (KEPT, node("b"), node("c"))}
    assert answer(waiting("x"), nodes=nodes, classes={"gb10-sm121": tolerant}) == ("b", "c")


def test_a_slow_pair_is_not_put_together_where_there_is_another_choice() -> None:
    floors = {"gb10-sm121": accelerator(preflight={"floors": {"linkGBps": "14"}})}
    slow = bearing(measured({("a", "b"): 2.0}))
    nodes = {one.name: one for one in slow}
    assert answer(waiting("x"), nodes=nodes, classes=floors) == ("a", "c")
    del nodes["c"]
    assert answer(waiting("x"), nodes=nodes, classes=floors) == ("a", "b"), "if it must be"
    sound = bearing(measured({("a", "b"): 2.0}), measured({("a", "b"): 20.0}))
    nodes = {one.name: one for one in sound}
    assert answer(waiting("x"), nodes=nodes, classes=floors) == ("a", "b"), "it was mended"
    slow[1] = replace(slow[1], annotations={})
    nodes = {one.name: one for one in slow}
    assert answer(waiting("x"), nodes=nodes, classes=floors) == ("a", "b"), "b was kept away"


# Attempts.

FOUND = {"suspects": [SUSPECT.model_dump()]}
SHORT = result(Outcome.FABRIC_ERROR, "preflight: a: link", preflight=FOUND)
LOST = result(Outcome.FABRIC_ERROR, "lost a peer")
RUNNING = scene().started().formed().after(100)


def test_an_attempt_that_ends_so_does_not_count_and_is_followed_by_another() -> None:
    ended = (
        RUNNING.pod_ends("worker-0", code=6, message=SHORT)
        .pod_ends("master-0", code=6, message=SHORT)
        .job_fails()
    )
    step = ended.step()
    status = step.status.phases[0]
    assert (status.outcome, status.failures, status.preflights) == (Outcome.FABRIC_ERROR, 0, 1)
    assert status.state is State.WAITING
    assert [event.reason for event in step.events] == [names.PREFLIGHT_FAILED]
    assert "ended before its first step: worker-0: preflight: a: link" not in status.message
    assert "ended before its first step: master-0: preflight: a: link" in status.message


def test_who_lost_a_peer_first_does_not_hide_what_was_measured() -> None:
    ended = (
        RUNNING.pod_ends("worker-0", code=6, message=LOST, at=-2)
        .pod_ends("master-0", code=6, message=SHORT)
        .job_fails()
    )
    assert ended.step().status.phases[0].preflights == 1


def test_a_node_that_went_down_explains_more() -> None:
    ended = (
        RUNNING.pod_ends("worker-0", code=6, message=SHORT)
        .job_fails()
        .node("a", ready=False, ready_changed=NOW)
        .after(46)
    )
    assert ended.step().status.phases[0].outcome is Outcome.NODE_LOST


def test_ten_in_a_row_are_forgiven_and_then_they_count() -> None:
    ended = RUNNING.with_phase(preflights=10).pod_ends("master-0", code=6, message=SHORT)
    status = ended.pod_ends("worker-0", code=6, message=SHORT).job_fails().step().status.phases[0]
    assert (status.failures, status.preflights) == (1, 11)


def test_any_other_end_begins_the_count_anew() -> None:
    ended = RUNNING.with_phase(preflights=9).pod_ends("master-0", code=6, message=LOST)
    status = ended.pod_ends("worker-0", code=6, message=LOST).job_fails().step().status.phases[0]
    assert (status.failures, status.preflights) == (1, 0)


# Starts.


def test_the_run_says_what_to_measure_and_nothing_where_it_is_known() -> None:
    classes = {**world().classes, "gb10-sm121": accelerator(preflight={"rounds": 2})}
    fresh = scene(classes=classes)
    step = fresh.step()
    assert '"preflight": {' in step.creates[0]["data"]["run.json"]
    assert "still holds" not in step.events[0].message
    known = {one.name: one for one in bearing(measured({("a", "b"): 20.0}))}
    step = scene(classes=classes, nodes=known).step()
    assert '"preflight": {' not in step.creates[0]["data"]["run.json"]
    assert "what was measured of its nodes before still holds" in step.events[0].message


def test_pods_know_the_name_of_their_node() -> None:
    job = scene().step().creates[1]
    spec = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    (told,) = [v for v in spec["containers"][0]["env"] if v["name"] == "NODE_NAME"]
    assert told["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
