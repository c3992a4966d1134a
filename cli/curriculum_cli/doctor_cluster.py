"""`curriculum doctor` on a cluster: what is read for its checks.

A kind that the user may not list leaves out the checks that need it, and a row says so.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from curriculum_api.check import Check
from curriculum_api.preflight import floors
from curriculum_api.preflight.figures import Figures, Proof
from curriculum_cli import cluster_checks, doctor_measure, fabric_checks, node_checks
from curriculum_cli.cluster_checks import ClusterFacts, Workload
from curriculum_cli.node_checks import Known, Machine
from curriculum_cli.reaching import Connect, reached
from curriculum_operator import cluster, kinds, names, observe, project
from curriculum_operator.cluster import Cluster, Raw

PROFILES_ENV = "CURRICULUM_FABRIC_PROFILES"
"""Where the operator's Deployment names the site's fabric profiles."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """That nodes are measured now, and where."""

    namespace: str
    claim: str
    """On which storage is measured; it is not where this is empty."""

    say: Callable[[str], None]


@dataclass(slots=True)
class Seen:
    """What the cluster showed."""

    facts: ClusterFacts
    machines: dict[str, Machine]
    profiles: dict[str, str]


@dataclass(slots=True)
class _Reader:
    """Lists, and remembers what was not shown."""

    there: Cluster
    hidden: list[str] = field(default_factory=list)

    async def all(self, kind: kinds.Kind, field_selector: str = "") -> list[Raw] | None:
        """All objects of a kind; None where it is not served or not shown."""
        try:
            items, _ = await self.there.list(kind, field_selector=field_selector)
        except cluster.NotFound:
            return None
        except cluster.Refused:
            self.hidden.append(kind.plural)
            return None
        return items


def rows(
    *,
    node: str = "",
    pair: str = "",
    fabric: bool = False,
    measuring: Measuring | None = None,
    connect: Connect = cluster.connect,
) -> list[Check]:
    """The rows that were asked for on the command line.

    Raises:
        ValueError: as `check`; or the options do not go together.
    """
    if sum(map(bool, (node, pair, fabric))) > 1:
        raise ValueError("--node, --pair and --fabric: give one of them")
    asked = tuple(name.strip() for name in pair.split(",")) if pair else (node,) if node else ()
    if pair and (len(set(asked)) != 2 or not all(asked)):
        raise ValueError(f'--pair "{pair}": two nodes with a comma between, for example a,b')
    if measuring and not asked:
        raise ValueError("--measure: name what is measured, with --node or --pair")
    return asyncio.run(check(nodes=asked, fabric=fabric, measuring=measuring, connect=connect))


async def check(
    *,
    nodes: Sequence[str] = (),
    fabric: bool = False,
    measuring: Measuring | None = None,
    connect: Connect = cluster.connect,
) -> list[Check]:
    """The rows of the cluster, or of one node, or of two and what joins them.

    Raises:
        ValueError: there is no cluster, it does not answer, or it has no such node.
    """
    async with reached(connect) as there:
        seen = await _seen(there)
        needed = {kinds.NODES.plural, kinds.CLASSES.plural} & set(seen.facts.hidden)
        if needed and (nodes or fabric):
            told = " and ".join(sorted(needed))
            raise ValueError(f"the cluster does not show you its {told}: ask for that right")
        if nodes:
            return await _of_nodes(there, seen, nodes, measuring)
        now = datetime.now(UTC)
        if fabric:
            found = fabric_checks.rows(seen.facts, seen.machines, seen.profiles, now)
            return list(found)
        return list(cluster_checks.rows(seen.facts))


async def _of_nodes(
    there: Cluster, seen: Seen, asked: Sequence[str], measuring: Measuring | None
) -> list[Check]:
    by_name = {node.name: node for node in seen.facts.nodes}
    for name in asked:
        if name not in by_name:
            known = cluster_checks.some(sorted(by_name)) or "none"
            raise ValueError(f'there is no node "{name}"; known: {known}')
    proof = await _measured(there, seen, asked, measuring) if measuring else None
    rows: list[Check] = []
    for name in asked:
        node = by_name[name]
        kind = _class_of(node, seen)
        gets = fabric_checks.of_node(node, kind, seen.facts, seen.profiles) if kind else None
        rows += node_checks.of_node(node, seen.machines[name], seen.facts, gets)
        if kind is not None:
            known_of = node_checks.fresh(proof) if proof else _kept(kind, [node], seen)
            rows += node_checks.figures(name, known_of, _floors(kind, known_of))
    kind = _class_of(by_name[asked[0]], seen)
    if len(asked) == 2 and kind is not None:
        one, other = (by_name[name] for name in asked)
        known_of = node_checks.fresh(proof) if proof else _kept(kind, [one, other], seen)
        rows += node_checks.pair((one.name, other.name), known_of, _floors(kind, known_of))
    return rows + (node_checks.remarks(proof) if proof else [])


async def _measured(
    there: Cluster, seen: Seen, asked: Sequence[str], measuring: Measuring
) -> Proof:
    return await doctor_measure.on_cluster(
        there,
        asked,
        namespace=measuring.namespace,
        claim=measuring.claim,
        profiles=seen.profiles,
        say=measuring.say,
    )


def _class_of(node: observe.Node, seen: Seen) -> observe.AcceleratorClass | None:
    return seen.facts.classes.get(node.labels.get(names.CLASS_LABEL, ""))


def _floors(kind: observe.AcceleratorClass, known: Known) -> Figures:
    return floors.of_class(kind.spec, known.measured.precision)


def _kept(kind: observe.AcceleratorClass, asked: Sequence[observe.Node], seen: Seen) -> Known:
    peers = [n for n in seen.facts.nodes if n.labels.get(names.CLASS_LABEL) == kind.name]
    return node_checks.kept(asked, kind, peers, datetime.now(UTC))


async def _seen(there: Cluster) -> Seen:
    reader = _Reader(there)
    nodes = await reader.all(kinds.NODES) or []
    curricula = await reader.all(kinds.CURRICULA)
    deployments = await reader.all(kinds.DEPLOYMENTS) or []
    daemons = await reader.all(kinds.DAEMONSETS) or []
    policies = await reader.all(kinds.ADMISSION_POLICIES)
    managers = await reader.all(kinds.CONFIGMAPS, "metadata.name=kueue-manager-config")
    classes = [project.accelerator_class(raw) for raw in await reader.all(kinds.CLASSES) or ()]
    pools = [project.rented_pool(raw) for raw in await reader.all(kinds.POOLS) or ()]
    jobs = await reader.all(kinds.PYTORCHJOBS, "metadata.name=none")
    read, unreadable = _curricula(curricula or ())
    served = curricula is not None or kinds.CURRICULA.plural in reader.hidden
    facts = ClusterFacts(
        client=metadata.version("curriculum-operator"),
        curricula=read if served else None,
        classes={one.name: one for one in classes},
        pools={pool.name: pool for pool in pools},
        nodes=[project.node(raw) for raw in nodes],
        serves_jobs=jobs is not None or kinds.PYTORCHJOBS.plural in reader.hidden,
        workloads=[_workload(raw) for raw in (*deployments, *daemons)],
        policies=None if policies is None else [raw["metadata"]["name"] for raw in policies],
        kueue=next(iter("".join(raw.get("data", {}).values()) for raw in managers or ()), None),
        unreadable=unreadable,
        hidden=reader.hidden,
    )
    return Seen(
        facts,
        machines={raw["metadata"]["name"]: _machine(raw) for raw in nodes},
        profiles=await _profiles(there, deployments),
    )


def _curricula(found: Sequence[Raw]) -> tuple[list[observe.Curriculum], list[str]]:
    """Those that can be read, and what is wrong with each of the others."""
    read, unreadable = [], []
    for raw in found:
        try:
            read.append(project.curriculum(raw))
        except ValueError as error:
            unreadable.append(str(error))
    return read, unreadable


def _workload(raw: Raw) -> Workload:
    meta, status = raw["metadata"], raw.get("status") or {}
    pod = raw["spec"]["template"]["spec"]
    return Workload(
        name=meta["name"],
        namespace=meta["namespace"],
        labels=meta.get("labels") or {},
        images=[container.get("image", "") for container in pod["containers"]],
        wanted=status.get("desiredNumberScheduled", raw["spec"].get("replicas", 1)),
        ready=status.get("numberReady", status.get("readyReplicas", 0)),
    )


def _machine(raw: Raw) -> Machine:
    status: dict[str, Any] = raw.get("status") or {}
    return Machine(
        kernel=(status.get("nodeInfo") or {}).get("kernelVersion", ""),
        capacity=status.get("capacity") or {},
        allocatable=status.get("allocatable") or {},
    )


async def _profiles(there: Cluster, deployments: Sequence[Raw]) -> dict[str, str]:
    """The site's own fabric profiles, where the operator's Deployment names them."""
    for raw in deployments:
        for container in raw["spec"]["template"]["spec"]["containers"]:
            for variable in container.get("env") or ():
                if variable["name"] == PROFILES_ENV and variable.get("value"):
                    try:
                        found = await there.get(
                            kinds.CONFIGMAPS, variable["value"], raw["metadata"]["namespace"]
                        )
                    except (cluster.NotFound, cluster.Refused):
                        return {}
                    return dict(project.fabric_profiles(found))
    return {}
