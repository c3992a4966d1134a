"""What joins the nodes of a class: its profile, the devices it needs, the links that were seen."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from curriculum_api.check import Check, Verdict
from curriculum_api.preflight import diagnose, floors
from curriculum_api.preflight import figures as measures
from curriculum_api.preflight.figures import UNITS, PairFigures, digits
from curriculum_cli import node_checks
from curriculum_cli.cluster_checks import ClusterFacts, pools_of, row, some
from curriculum_cli.node_checks import Machine
from curriculum_operator import check, names, observe
from curriculum_operator.build import proof
from curriculum_operator.fabric import rendered
from curriculum_operator.fabric.rendered import Rendered


def rows(
    facts: ClusterFacts,
    machines: Mapping[str, Machine],
    profiles: Mapping[str, str],
    now: datetime,
) -> Iterable[Check]:
    """Every class that has nodes, then what phases saw."""
    for name in sorted(facts.classes):
        kind = facts.classes[name]
        nodes = [n for n in facts.nodes if n.labels.get(names.CLASS_LABEL) == name]
        if nodes:
            yield from _of_class(kind, nodes, facts, machines, profiles, now)
    for curriculum in facts.curricula or ():
        yield from _of_curriculum(curriculum, facts, profiles)


def of_node(
    node: observe.Node,
    kind: observe.AcceleratorClass,
    facts: ClusterFacts,
    profiles: Mapping[str, str],
) -> Rendered | None:
    """What a phase on this node would get; None where its profile cannot be rendered."""
    pool = next(iter(pools_of([node], kind, facts.pools.values())), None)
    try:
        alone = proof.phase_of(kind, pool, nodes=1, site=profiles)
        return rendered.render(kind.spec, pool.spec if pool else None, alone, site=profiles)
    except ValueError:
        return None


def _of_class(
    kind: observe.AcceleratorClass,
    nodes: Sequence[observe.Node],
    facts: ClusterFacts,
    machines: Mapping[str, Machine],
    profiles: Mapping[str, str],
    now: datetime,
) -> Iterable[Check]:
    subject = f"class {kind.name}"
    # one node, which every profile takes: what a pod gets hardly hangs on more
    alone = proof.phase_of(kind, None, nodes=1, site=profiles)
    problems = list(check.of_fabric(alone, kind, None, site=profiles))
    try:
        fabric = rendered.render(kind.spec, None, alone, site=profiles)
    except ValueError as error:
        yield row("profile", kind.spec.fabric.profile, Verdict.FAIL, remedy=str(error),
                  subject=subject)  # fmt: skip
        return
    over = "RDMA" if fabric.rdma else "sockets"
    told = f"{fabric.profile}{' (of the site)' if fabric.site else ''}, over {over}"
    yield row(
        "profile",
        told,
        Verdict.FAIL if problems else Verdict.PASS,
        floor=f"NCCL {fabric.nccl}" if fabric.nccl else "",
        remedy="\n".join(problems),
        subject=subject,
    )
    lacking = [
        node.name
        for node in nodes
        if any(
            found.verdict is Verdict.FAIL
            for found in node_checks.devices(
                node, machines[node.name], of_node(node, kind, facts, profiles)
            )
        )
    ]
    if fabric.rdma:
        told = f"{len(nodes) - len(lacking)} of {len(nodes)} nodes offer what it needs"
        remedy = f"not {some(lacking)}: curriculum doctor --node {lacking[0]}" if lacking else ""
        yield row("devices", told, Verdict.FAIL if lacking else Verdict.PASS, remedy=remedy,
                  subject=subject)  # fmt: skip
    if len(nodes) > 1:
        yield _links(subject, kind, nodes, now)


def _links(
    subject: str, kind: observe.AcceleratorClass, nodes: Sequence[observe.Node], now: datetime
) -> Check:
    """The slowest link that is known, beside the floor."""
    known = node_checks.kept(nodes, kind, nodes, now).measured
    bounds = floors.of_class(kind.spec, known.precision)
    floor = bounds.get(measures.Check.LINK)
    told = f"{digits(floor)} {UNITS[measures.Check.LINK]}" if floor else ""
    met = [p for p in known.pairs if measures.Check.LINK in p.figures]
    if not met:
        remedy = "the next phase measures some where its class has a preflight"
        return row("links", "none measured", Verdict.WARN, floor=told, remedy=remedy,
                   subject=subject)  # fmt: skip
    worst = min(met, key=lambda pair: pair.figures[measures.Check.LINK])
    bad = [pair for pair in met if diagnose.falls_short(measures.Check.LINK, pair.figures, bounds)]
    value = f"{len(met)} known; the slowest {_link(worst)}"
    if not bad:
        return row("links", value, floor=told, subject=subject)
    remedy = f"{len(bad)} too slow: curriculum doctor --pair {','.join(worst.nodes)}"
    return row("links", value, Verdict.FAIL, floor=told, remedy=remedy, subject=subject)


def _of_curriculum(
    curriculum: observe.Curriculum, facts: ClusterFacts, profiles: Mapping[str, str]
) -> Iterable[Check]:
    """What stands in its way, and what its newest processes said that they met over."""
    subject = f"{curriculum.namespace}/{curriculum.name}"
    for phase in curriculum.spec.phases:
        kind = facts.classes.get(phase.accelerator_class)
        if kind is None:
            continue
        pool = facts.pools.get(phase.pool) if phase.pool else None
        problems = list(check.of_fabric(phase, kind, pool, site=profiles))
        if problems:
            yield row(f"phase {phase.name}", "its fabric does not fit", Verdict.FAIL,
                      remedy="\n".join(problems), subject=subject)  # fmt: skip
    for seen in curriculum.status.conditions:
        if seen.type == names.FABRIC_HEALTHY:
            verdict = {"True": Verdict.PASS, "False": Verdict.FAIL}.get(seen.status)
            if verdict is not None:
                yield row("in use", seen.message, verdict, subject=subject)


def _link(pair: PairFigures) -> str:
    value = digits(pair.figures[measures.Check.LINK])
    return f"{value} {UNITS[measures.Check.LINK]} ({', '.join(pair.nodes)})"
