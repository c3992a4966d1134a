"""What is known of a node and of a pair of nodes, and whether it is good enough. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from curriculum_api.check import Check, Verdict
from curriculum_api.preflight import diagnose, floors
from curriculum_api.preflight import figures as measures
from curriculum_api.preflight.figures import (
    AT_MOST,
    OWN,
    PAIR,
    UNITS,
    Figures,
    Measured,
    Proof,
    Suspect,
    digits,
)
from curriculum_api.wire import Precision
from curriculum_cli import machine_checks
from curriculum_cli.cluster_checks import ClusterFacts, obstacle, row
from curriculum_operator import names, observe, project, quarantine, recognise, record
from curriculum_operator.fabric.rendered import Rendered

DRIVER_LABEL = "nvidia.com/cuda.driver-version.full"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a node's status says beside what the operator reads."""

    kernel: str
    capacity: Mapping[str, str]
    allocatable: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """What was measured of the nodes that are asked about, by the newest there is."""

    measured: Measured
    ages: Mapping[str, timedelta]
    """By node, and by pair as `a, b`; empty where it was measured just now."""

    suspects: tuple[Suspect, ...]
    max_age: timedelta
    """How long figures hold; 0 where they are measured before every attempt anyhow."""


def of_node(
    node: observe.Node, machine: Machine, facts: ClusterFacts, fabric: Rendered | None
) -> Iterable[Check]:
    """Every row of a node but its figures."""
    yield recognised(node, facts)
    kind = facts.classes.get(node.labels.get(names.CLASS_LABEL, ""))
    yield usable(node, kind, facts)
    yield from kernel(node, machine)
    driver = node.labels.get(DRIVER_LABEL)
    if driver:
        yield row("driver", driver, subject=node.name)
    if kind is None:
        return
    yield from accelerators(node, machine, kind)
    yield memory(node, kind)
    yield from devices(node, machine, fabric)


def recognised(node: observe.Node, facts: ClusterFacts) -> Check:
    """Its class, and why."""
    found = recognise.verdict(node, facts.classes)
    label = node.labels.get(names.CLASS_LABEL)
    told = f"{label or 'none'}: {found.reason or 'it says nothing of an accelerator'}"
    if node.labels.get(names.MANAGED_LABEL) == "false":
        told = f"{label or 'none'}: an administrator's own"
        return row("class", told, Verdict.PASS if label else Verdict.WARN, subject=node.name)
    if found.name is None or found.name != label:
        why = "\n".join(recognise.explain(node, facts.classes)[1:])
        return row("class", told, Verdict.FAIL, remedy=why, subject=node.name)
    return row("class", told, subject=node.name)


def usable(node: observe.Node, kind: observe.AcceleratorClass | None, facts: ClusterFacts) -> Check:
    """Whether a phase can have it."""
    if kind is None:
        ready = Verdict.PASS if node.ready else Verdict.FAIL
        return row("admission", "Ready" if node.ready else "not Ready", ready, subject=node.name)
    found = obstacle(node, kind, facts)
    if found is None:
        return row("admission", "phases can have it", subject=node.name)
    kept = quarantine.of(node) if quarantine.taint(node) else None
    if kept is not None:
        remedy = (
            f"{diagnose.REMEDIES[kept.suspect.check]}; mended sooner: kubectl taint node"
            f" {node.name} {names.QUARANTINE_TAINT}-"
        )
    elif not node.ready:
        remedy = f"kubectl describe node {node.name}; is its kubelet running?"
    elif node.unschedulable:
        remedy = f"kubectl uncordon {node.name}"
    else:
        remedy = f"kubectl describe node {node.name}"
    return row("admission", found, Verdict.FAIL, remedy=remedy, subject=node.name)


def kernel(node: observe.Node, machine: Machine) -> Iterable[Check]:
    """Whether it can register memory for RDMA; its options are not seen from here."""
    if machine.kernel:
        arch = node.labels.get(names.ARCH_LABEL, "")
        found = machine_checks.kernel(machine.kernel, "", arch)
        yield found.model_copy(update={"subject": node.name})


def accelerators(
    node: observe.Node, machine: Machine, kind: observe.AcceleratorClass
) -> Iterable[Check]:
    """Whether the device plugin offers what the class has."""
    resource, wanted = kind.spec.gpu_resource, kind.spec.gpus_per_node
    has, offers = (int(of.get(resource, "0")) for of in (machine.capacity, machine.allocatable))
    remedy = (
        f"{has - offers} unhealthy: see the device plugin's log and nvidia-smi on the node"
        if has >= wanted
        else "the device plugin does not offer them: is it running on this node?"
    )
    fits = offers >= wanted
    yield row(
        "accelerators", f"{offers} {resource}", Verdict.PASS if fits else Verdict.FAIL,
        floor=str(wanted), remedy="" if fits else remedy, subject=node.name,
    )  # fmt: skip


def memory(node: observe.Node, kind: observe.AcceleratorClass) -> Check:
    """What one accelerator has, where the class's figure is what plans count with."""
    found, where = recognise.memory_gib(node, kind.spec)
    wanted = kind.spec.memory_gib
    floor = f"{wanted} GiB"
    if found is None:
        return row("memory size", f"unknown: no {where}", floor=floor, subject=node.name)
    if found < wanted:
        remedy = f"plans count on more: set the class's memoryGiB to {int(found)}"
        told = f"{found:.1f} GiB ({where})"
        return row("memory size", told, Verdict.WARN, floor=floor, remedy=remedy, subject=node.name)
    return row("memory size", f"{found:.1f} GiB ({where})", floor=floor, subject=node.name)


def devices(node: observe.Node, machine: Machine, fabric: Rendered | None) -> Iterable[Check]:
    """What the fabric's profile asks of a node: RDMA devices, huge pages."""
    if fabric is None:
        return
    for resource, count in sorted({**fabric.requests, **fabric.limits}.items()):
        there = machine.allocatable.get(resource, "0")
        if "/" not in resource and not resource.startswith("hugepages-"):
            continue
        fits = project.amount(there) >= project.amount(count)
        remedy = f"pods of profile {fabric.profile} stay Pending: {_bring(resource)}"
        yield row(
            resource, there, Verdict.PASS if fits else Verdict.FAIL, floor=count,
            remedy="" if fits else remedy, subject=node.name,
        )  # fmt: skip


def figures(name: str, known: Known, bounds: Figures) -> Iterable[Check]:
    """What was measured of a node by itself, check by check."""
    own: Figures = next((n.figures for n in known.measured.nodes if n.node == name), {})
    suspects = {s.check: s for s in known.suspects if s.node == name}
    age = known.ages.get(name)
    if not own:
        yield _unknown(name)
        return
    for check in OWN:
        if check not in own:
            continue
        suspect = suspects.get(check)
        floor = suspect.floor if suspect else bounds.get(check)
        bad = suspect is not None or diagnose.falls_short(check, own, bounds)
        remedy = diagnose.REMEDIES[check] if bad else ""
        if suspect is not None and suspect.relative:
            remedy = f"half of what its peers reach is {digits(suspect.floor)}: {remedy}"
        yield _figure(name, check, own[check], floor, age, known, remedy)


def pair(names_: tuple[str, str], known: Known, bounds: Figures) -> Iterable[Check]:
    """What was measured between two nodes."""
    subject = ", ".join(sorted(names_))
    met: Figures = next(
        (p.figures for p in known.measured.pairs if set(p.nodes) == set(names_)), {}
    )
    if not met:
        yield _unknown(subject)
        return
    for check in PAIR:
        if check not in met:
            continue
        bad = diagnose.falls_short(check, met, bounds)
        to_blame = [s.node for s in known.suspects if s.node in names_ and s.check is check]
        remedy = diagnose.REMEDIES[check] if bad else ""
        if bad:
            whose = f"it is {to_blame[0]}" if to_blame else "which of them tells a third node"
            remedy = f"{whose}: {remedy}"
        yield _figure(
            subject, check, met[check], bounds.get(check), known.ages.get(subject), known, remedy
        )


def fresh(proof: Proof) -> Known:
    """What was measured just now."""
    found = diagnose.diagnose(proof.measured, proof.floors)
    return Known(proof.measured, {}, found.suspects, timedelta.max)


def remarks(proof: Proof) -> list[Check]:
    """What a measurement says beside its figures."""
    over = [row("transport", proof.fabric)] if proof.fabric else []
    return over + [row("remark", text, Verdict.WARN) for text in proof.remarks]


def kept(
    asked: Sequence[observe.Node],
    kind: observe.AcceleratorClass,
    of_class: Iterable[observe.Node],
    now: datetime,
) -> Known:
    """What the nodes' own records say of them, judged beside all nodes of their class."""
    max_age = timedelta(seconds=kind.spec.preflight.max_age_seconds if kind.spec.preflight else 0)
    peers = list(of_class)
    own = {node.name: record.read(node) for node in asked}
    precision = next((r.precision for r in own.values() if r is not None), Precision.BF16)
    measured = record.put_together(peers, precision, timedelta.max, now)
    found = diagnose.diagnose(measured, floors.of_class(kind.spec, precision))
    ages = {name: now - told.at for name, told in own.items() if told is not None}
    for name, told in own.items():
        for partner, met in (told.pairs if told else {}).items():
            ages[", ".join(sorted((name, partner)))] = now - met.at
    return Known(measured, ages, found.suspects, max_age)


_SHOWN_AS = {measures.Check.MEMORY: "memory free"}
"""Checks whose own name says too little beside the rows that are not measured."""


def _figure(
    subject: str,
    check: measures.Check,
    value: float,
    floor: float | None,
    age: timedelta | None,
    known: Known,
    remedy: str,
) -> Check:
    told = f"{digits(value)} {UNITS[check]}"
    if age is not None:
        told += f", {_ago(age)}"
    name = _SHOWN_AS.get(check, check.value)
    bound = ""
    if floor is not None:
        bound = f"{'at most ' if check in AT_MOST else ''}{digits(floor)} {UNITS[check]}"
    if remedy:
        return row(name, told, Verdict.FAIL, floor=bound, remedy=remedy, subject=subject)
    if age is not None and known.max_age and age > known.max_age:
        remedy = "too old: the next phase measures it again, as does --measure"
        return row(name, told, Verdict.WARN, floor=bound, remedy=remedy, subject=subject)
    return row(name, told, floor=bound, subject=subject)


def _unknown(subject: str) -> Check:
    remedy = "the next phase measures it where its class has a preflight, as does --measure"
    return row("preflight", "not measured", Verdict.WARN, remedy=remedy, subject=subject)


def _ago(age: timedelta) -> str:
    minutes = int(age.total_seconds() // 60)
    if minutes < 1:
        return "just now"
    if minutes < 120:
        return f"{minutes} min ago"
    hours = minutes // 60
    return f"{hours} h ago" if hours < 48 else f"{hours // 24} days ago"


def _bring(resource: str) -> str:
    if resource.startswith("hugepages-"):
        return "reserve huge pages on the node"
    return "its device plugin must offer it, or the class name another rdmaResource"
