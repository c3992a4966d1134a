"""A node that fell short in a preflight is kept from use for a while; others take its place."""

import json
from collections.abc import Mapping
from typing import Any

from curriculum_api.preflight.figures import (
    Check,
    Findings,
    Measured,
    NodeFigures,
    PairFigures,
    SlowPair,
    Suspect,
)
from curriculum_api.run import EXIT_CODES
from curriculum_api.wire import Outcome
from curriculum_operator import kinds, names
from curriculum_operator.cluster import Raw

from ..memory.datacentre import node
from ..memory.script import Failure, Plan
from .backends import ON_BOTH, scenario
from .documents import SPARK, curriculum, phase
from .stage import Stage

THIRD = "spark-3"
QUARANTINE_SECONDS = 3600
SOUND = {Check.MATMUL: 91.0, Check.WRITE: 1.0}


def falls_short(*bad: str, link: tuple[str, str] | None = None, **told: Any) -> Plan:
    """Every pod says that these nodes are not good enough, or that this pair is not."""
    suspects = tuple(
        Suspect(node=name, check=Check.LINK, value=0.17, floor=0.8, unit="GB/s", peer="spark-1")
        for name in bad
    )
    pairs = (
        (SlowPair(nodes=link, check=Check.LINK, value=2.0, floor=14.0, unit="GB/s"),)
        if link
        else ()
    )
    failure = Failure(
        exit_code=EXIT_CODES[Outcome.FABRIC_ERROR],
        outcome=Outcome.FABRIC_ERROR,
        message="preflight: " + ", ".join(bad or link or ()),
        preflight=Findings(suspects=suspects, pairs=pairs),
    )
    return Plan(fails={"master-0": failure, "worker-0": failure}, **told)


def measured(links: Mapping[tuple[str, str], float], boot: str = "") -> Measured:
    """Sound nodes with these links between them."""
    nodes = sorted({name for pair in links for name in pair})
    return Measured(
        precision="BF16",
        nodes=tuple(NodeFigures(node=name, boot=boot, figures=SOUND) for name in nodes),
        pairs=tuple(
            PairFigures(nodes=pair, figures={Check.LINK: link}) for pair, link in links.items()
        ),
    )


async def begin(stage: Stage, *phases: Raw, third: bool = True, **preflight: Any) -> None:
    """Sparks with a preflight in their class, a third one where it is wanted, and a curriculum."""
    if third:
        labels = {names.GPU_MAJOR_LABEL: "12", names.GPU_MINOR_LABEL: "1"}
        await stage.submit(node(stage.clock, THIRD, gpus=1, arch="arm64", labels=labels))
    asked = {"floors": {"linkGBps": "14"}, "quarantineSeconds": QUARANTINE_SECONDS, **preflight}
    await stage.edit(SPARK, lambda raw: raw["spec"].update(preflight=asked), kinds.CLASSES)
    stage.operator()
    sparks = ("spark-1", "spark-2", *((THIRD,) if third else ()))

    def all_recognised() -> bool:
        return all(
            names.CLASS_LABEL in seen(stage, s)["metadata"].get("labels", {}) for s in sparks
        )

    await stage.until(all_recognised, "every Spark recognised, so that which are chosen is known")
    await stage.submit(curriculum("slm", *(phases or (phase("pretrain"),))))


def taints(stage: Stage, name: str) -> list[Raw]:
    found: list[Raw] = (seen(stage, name)["spec"]).get("taints") or []
    return [taint for taint in found if taint["key"] == names.QUARANTINE_TAINT]


def seen(stage: Stage, name: str) -> Raw:
    raw = stage.datacentre.view.find(kinds.NODES, name)
    assert raw is not None
    return raw


def annotation(stage: Stage, name: str, key: str) -> Any:
    told = (seen(stage, name)["metadata"].get("annotations") or {}).get(key)
    return None if told is None else json.loads(told)


def events(stage: Stage, reason: str) -> list[str]:
    return [
        w.body["message"]
        for w in stage.writes
        if w.kind is kinds.EVENTS and w.body.get("reason") == reason
    ]


def nodes_of(stage: Stage, attempt: int) -> set[str]:
    uid = next(run.curriculum_uid for run in stage.witness.started)
    return stage.witness.nodes[uid, "pretrain", attempt]


@scenario(*ON_BOTH)
async def test_a_bad_node_is_marked_and_the_phase_runs_on_the_others(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = falls_short("spark-2")
    await begin(stage)
    await stage.until_ended()

    assert stage.status()["state"] == "Succeeded"
    assert nodes_of(stage, 1) == {"spark-1", "spark-2"}
    assert nodes_of(stage, 2) == {"spark-1", THIRD}
    one = stage.phase("pretrain")
    assert (one["attempts"], one["failures"]) == (2, 0), "it does not count"
    assert [(t["value"], t["effect"]) for t in taints(stage, "spark-2")] == [("link", "NoSchedule")]
    assert seen(stage, "spark-2")["metadata"]["labels"][names.QUARANTINED_LABEL] == "link"
    told = annotation(stage, "spark-2", names.QUARANTINE_ANNOTATION)
    assert (told["check"], told["value"], told["floor"]) == ("link", 0.17, 0.8)
    (message,) = events(stage, names.NODE_QUARANTINED)
    assert "spark-2: link 0.17 GB/s, floor 0.8 with spark-1, its best partner" in message
    (message,) = events(stage, names.PREFLIGHT_FAILED)
    assert "ended before its first step" in message
    for name in ("spark-1", THIRD):
        assert not taints(stage, name)


@scenario()
async def test_the_phase_waits_and_says_for_what_until_the_quarantine_ends(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = falls_short("spark-2")
    await begin(stage, third=False)
    await stage.until_message("Ready", '"spark-2" is in quarantine until ')
    assert "UTC: link 0.17 GB/s, floor 0.8" in stage.condition("Ready")["message"]
    before = stage.clock.now()
    await stage.until_ended()

    assert stage.status()["state"] == "Succeeded"
    assert (stage.clock.now() - before).total_seconds() >= QUARANTINE_SECONDS - 120
    assert not taints(stage, "spark-2")
    assert names.QUARANTINED_LABEL not in seen(stage, "spark-2")["metadata"]["labels"]
    assert annotation(stage, "spark-2", names.QUARANTINE_ANNOTATION) is None
    assert len(events(stage, names.QUARANTINE_ENDED)) == 1
    assert stage.witness.started[-1].preflight is not None, "it is measured again"
    await stage.is_calm()


@scenario()
async def test_an_administrator_ends_a_quarantine_by_removing_the_taint(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = falls_short("spark-2")
    await begin(stage, third=False)
    await stage.until_message("Ready", '"spark-2" is in quarantine')
    await stage.edit("spark-2", lambda raw: raw["spec"].pop("taints"), kinds.NODES)
    await stage.operators[0].kill()
    stage.operator()  # which hears of the old finding again
    before = stage.clock.now()
    await stage.until_ended()
    assert stage.status()["state"] == "Succeeded"
    assert (stage.clock.now() - before).total_seconds() < QUARANTINE_SECONDS
    assert not taints(stage, "spark-2")


@scenario(*ON_BOTH)
async def test_what_was_measured_is_kept_on_the_nodes_and_used_again(stage: Stage) -> None:
    sound = measured({("spark-1", "spark-2"): 20.0})
    stage.script.plans["slm", "pretrain", 1] = Plan(measured=sound)
    await begin(stage, phase("pretrain"), phase("quality", objective="FineTune"), third=False)
    await stage.until_ended()

    told = annotation(stage, "spark-1", names.PREFLIGHT_ANNOTATION)
    assert (told["figures"]["matmul"], told["pairs"]["spark-2"]["link"]) == (91.0, 20.0)
    first, second = stage.witness.started
    assert first.preflight is not None
    assert first.preflight.floors[Check.LINK] == 14.0
    assert second.preflight is None
    started = events(stage, names.PHASE_STARTED)
    assert ["what was measured of its nodes before still holds" in text for text in started] == [
        False,
        True,
    ]


@scenario()
async def test_what_is_too_old_is_measured_again(stage: Stage) -> None:
    sound = measured({("spark-1", "spark-2"): 20.0})
    stage.script.plans["slm", "pretrain", 1] = Plan(measured=sound, seconds=600.0, beats=(300.0,))
    phases = (phase("pretrain", heartbeatSeconds=3600), phase("quality", objective="FineTune"))
    await begin(stage, *phases, third=False, maxAgeSeconds=300)
    await stage.until_ended()
    assert [run.preflight is not None for run in stage.witness.started] == [True, True]


@scenario(*ON_BOTH)
async def test_of_a_slow_pair_the_bad_one_is_found_by_the_next_attempt(stage: Stage) -> None:
    """spark-1 and spark-2 are slow together, spark-1 and spark-3 are not: it is spark-2."""
    slow, sound = ("spark-1", "spark-2"), ("spark-1", THIRD)
    stage.script.plans["slm", "pretrain", 1] = falls_short(
        link=slow, measured=measured({slow: 2.0})
    )
    stage.script.plans["slm", "pretrain", 2] = Plan(measured=measured({sound: 20.0}))
    await begin(stage)
    await stage.until_ended()

    assert nodes_of(stage, 2) == {"spark-1", THIRD}
    await stage.until(lambda: taints(stage, "spark-2"), "spark-2 is in quarantine")
    assert not taints(stage, "spark-1")
    assert not taints(stage, THIRD)
    assert stage.phase("pretrain")["failures"] == 0


@scenario()
async def test_of_two_nodes_alone_neither_is_blamed_and_it_does_not_go_on_for_ever(
    stage: Stage,
) -> None:
    slow = ("spark-1", "spark-2")
    stage.script.plans["", "", 0] = falls_short(link=slow, measured=measured({slow: 2.0}))
    await begin(stage, phase("pretrain", maxAttempts=2), third=False)
    await stage.until_ended()

    one = stage.phase("pretrain")
    assert (one["state"], one["outcome"]) == ("Failed", "FabricError")
    assert (one["attempts"], one["failures"]) == (12, 2), "ten are forgiven"
    assert not taints(stage, "spark-1")
    assert not taints(stage, "spark-2")


@scenario()
async def test_an_operator_that_dies_before_it_marks_the_node_is_followed_by_one_that_does(
    stage: Stage,
) -> None:
    stage.script.plans["slm", "pretrain", 1] = falls_short("spark-2")
    await begin(stage)
    await stage.until(lambda: stage.witness.started, "attempt 1 runs")
    await stage.operators[0].kill()
    await stage.passes(30)
    stage.operator()
    await stage.until_ended()
    assert stage.status()["state"] == "Succeeded"
    assert taints(stage, "spark-2")
    assert nodes_of(stage, 2) == {"spark-1", THIRD}


@scenario()
async def test_a_pod_may_only_speak_of_the_nodes_of_its_own_gang(stage: Stage) -> None:
    stage.script.plans["slm", "pretrain", 1] = falls_short(THIRD, "spark-2")
    await begin(stage)
    await stage.until_ended()
    assert nodes_of(stage, 1) == {"spark-1", "spark-2"}
    assert taints(stage, "spark-2")
    assert not taints(stage, THIRD)


@scenario()
async def test_other_taints_of_the_node_stay(stage: Stage) -> None:
    other = {"key": "example.com/rack", "value": "3", "effect": "NoSchedule"}
    stage.script.plans["slm", "pretrain", 1] = falls_short("spark-2")
    await begin(stage)
    await stage.until(lambda: stage.witness.started, "attempt 1 runs")
    await stage.edit("spark-2", lambda raw: raw["spec"].update(taints=[other]), kinds.NODES)
    await stage.until(lambda: taints(stage, "spark-2"), "it is in quarantine")
    assert other in seen(stage, "spark-2")["spec"]["taints"]
    await stage.until(lambda: not taints(stage, "spark-2"), "it is over")
    assert seen(stage, "spark-2")["spec"]["taints"] == [other]
