"""Who may start, and on which nodes: one walk over all waiting curricula.

A gang starts whole or not at all. What is taken is read from running pods, from the nodes that
live jobs are pinned to, and from starts that were decided and are not yet seen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from curriculum_api.preflight import floors
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.v1alpha1.pod import Toleration
from curriculum_api.v1alpha1.status import PhaseStatus
from curriculum_api.wire import State
from curriculum_operator import names, observe, quarantine, record


@dataclass(frozen=True, slots=True)
class Placement:
    """The nodes that a gang starts on."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a gang does not start, in one line."""

    message: str


def walk(curriculum: observe.Curriculum, world: observe.World) -> Placement | Shortage:
    """Place every waiting gang in order and say what that leaves `curriculum`.

    The order is priority, then age, then UID. A gang that does not fit does not hold up those
    behind it.

    Raises:
        ValueError: `curriculum` has no phase left.
    """
    free = free_gpus(world)
    held = pool_nodes(world)
    for candidate in sorted(_waiting(curriculum, world), key=_order):
        at_hand = candidate.current()
        if at_hand is None:
            raise ValueError(f'curriculum "{candidate.name}" has no phase left to place')
        answer = _place(at_hand[1], world, free, held)
        if candidate.uid == curriculum.uid:
            return answer
        if isinstance(answer, Placement):
            _take(at_hand[1], answer, world, free, held)
    raise ValueError(f'curriculum "{curriculum.name}" is not among those that wait')


def of_class(kind: observe.AcceleratorClass, world: observe.World) -> Sequence[observe.Node]:
    """The nodes of a class."""
    return [n for n in world.nodes.values() if n.labels.get(names.CLASS_LABEL) == kind.name]


def nodes_of(placement: Placement, world: observe.World) -> Sequence[observe.Node]:
    """The nodes of a placement."""
    return [world.nodes[name] for name in placement.nodes]


def free_gpus(world: observe.World) -> dict[tuple[str, str], int]:
    """Accelerators that nobody holds, by node and resource name."""
    free = {
        (node.name, resource): count
        for node in world.nodes.values()
        for resource, count in node.extended
    }
    for node, resource, count in _held(world):
        if (node, resource) in free:
            free[node, resource] -= count
    return free


def pool_nodes(world: observe.World) -> dict[str, set[str]]:
    """Nodes that curricula hold of each rented pool."""
    held: dict[str, set[str]] = {}
    for assumed in world.assumed.values():
        if assumed.pool:
            held.setdefault(assumed.pool, set()).update(assumed.nodes)
    for uid, jobs in world.jobs.items():
        curriculum = world.curricula.get(uid)
        for job in jobs:
            if job.finished or curriculum is None:
                continue
            for phase in curriculum.spec.phases:
                if phase.name == job.phase and phase.pool:
                    held.setdefault(phase.pool, set()).update(job.nodes)
    return held


def _held(world: observe.World) -> Iterable[tuple[str, str, int]]:
    for occupant in world.occupants.values():
        for resource, count in occupant.extended:
            yield occupant.node, resource, count
    pinned: set[observe.AttemptKey] = set()
    for uid, jobs in world.jobs.items():
        for job in jobs:
            # A live job holds the nodes that it is pinned to from before its pods exist; one that
            # a queue admitted is pinned to none, and holds what its pods hold.
            if job.nodes and not job.finished:
                pinned.add((uid, job.phase, job.attempt))
                for node in job.nodes:
                    yield node, job.gpu_resource, job.gpus_per_node
    for uid, pods in world.pods.items():
        for pod in pods:
            if not pod.finished and (uid, pod.phase, pod.attempt) not in pinned:
                for resource, count in pod.extended:
                    yield pod.node, resource, count
    for key, assumed in world.assumed.items():
        if key not in pinned:
            for node in assumed.nodes:
                yield node, assumed.gpu_resource, assumed.gpus_per_node


def _waiting(curriculum: observe.Curriculum, world: observe.World) -> Iterable[observe.Curriculum]:
    yield curriculum
    for other in world.curricula.values():
        if other.uid == curriculum.uid or other.deleting or other.spec.suspend:
            continue
        at_hand = other.current()
        if at_hand is None or other.spec.queue_name:
            continue
        if at_hand[2].state is State.WAITING and not _asks_nothing(other, at_hand, world):
            yield other


def _asks_nothing(
    other: observe.Curriculum,
    at_hand: tuple[int, Phase, PhaseStatus],
    world: observe.World,
) -> bool:
    """Whether it could not start now even if it had nodes: it must not keep them from others."""
    _, phase, status = at_hand
    live = status.claim_time is not None and status.end_time is None
    if live or (other.uid, phase.name, status.attempts + 1) in world.assumed:
        return True
    if status.retry_time is not None:
        return True
    if any(c.type == names.STALLED and c.status == "True" for c in other.status.conditions):
        return True
    # Pods of an attempt before are still there.
    jobs, pods = world.jobs.get(other.uid, ()), world.pods.get(other.uid, ())
    return any(not job.finished for job in jobs) or any(
        pod.role == names.ROLE_TRAIN and not pod.finished for pod in pods
    )


def _order(curriculum: observe.Curriculum) -> tuple[int, float, str]:
    return (-curriculum.spec.priority, curriculum.created.timestamp(), curriculum.uid)


def _place(
    phase: Phase,
    world: observe.World,
    free: Mapping[tuple[str, str], int],
    held: Mapping[str, set[str]],
) -> Placement | Shortage:
    kind = world.classes.get(phase.accelerator_class)
    if kind is None:
        return Shortage(f'accelerator class "{phase.accelerator_class}" does not exist')
    pool = world.pools.get(phase.pool) if phase.pool else None
    if phase.pool and pool is None:
        return Shortage(f'rented pool "{phase.pool}" does not exist')
    gpus = phase.gpus_per_node or kind.spec.gpus_per_node
    tolerations = kind.spec.tolerations + (pool.spec.tolerations if pool else ())
    selector = pool.spec.node_selector if pool else {}
    eligible = [
        node
        for node in of_class(kind, world)
        if all(node.labels.get(key) == value for key, value in selector.items())
    ]
    obstacles = {node.name: obstacle(node, kind, tolerations) for node in eligible}
    usable = [node for node in eligible if obstacles[node.name] is None]
    fitting = [n for n in usable if free.get((n.name, kind.spec.gpu_resource), 0) >= gpus]
    where = f'accelerator class "{kind.name}"' + (f' in pool "{phase.pool}"' if phase.pool else "")
    if len(usable) < phase.nodes:
        return Shortage(f"{where}: {len(usable)} of {phase.nodes} nodes Ready{_told(obstacles)}")
    if len(fitting) < phase.nodes:
        return Shortage(
            f"{where}: {len(fitting)} of {phase.nodes} nodes have {gpus} free"
            f" {kind.spec.gpu_resource}"
        )
    # Fullest first keeps whole nodes free for larger gangs; names break ties.
    fitting.sort(key=lambda n: (free[n.name, kind.spec.gpu_resource], n.name))
    chosen = {node.name for node in _apart(fitting, phase, kind)[: phase.nodes]}
    if pool is not None:
        in_use = held.get(pool.name, set())
        if len(in_use | chosen) > pool.spec.max_nodes:
            return Shortage(
                f"{where}: {len(chosen - in_use)} more nodes are needed and {len(in_use)} of the"
                f" pool's {pool.spec.max_nodes} are in use"
            )
    return Placement(tuple(sorted(chosen)))


def _apart(
    fitting: Sequence[observe.Node], phase: Phase, kind: observe.AcceleratorClass
) -> Sequence[observe.Node]:
    """These nodes, with those last that were seen to be slow with one before them.

    Two nodes with a slow link do not tell which of them it is; each with a third does.
    """
    bounds = floors.of_class(kind.spec, phase.precision)
    slow = {node.name: record.slow_partners(node, bounds) for node in fitting}
    first: list[observe.Node] = []
    last: list[observe.Node] = []
    for node in fitting:
        # while it lies on both: a quarantine drops what one of them bears
        known = any(o.name in slow[node.name] and node.name in slow[o.name] for o in first)
        (last if known else first).append(node)
    return first + last


def obstacle(
    node: observe.Node, kind: observe.AcceleratorClass, tolerations: Sequence[Toleration]
) -> str | None:
    """Why no pod of the class can be put on the node, whatever is free on it."""
    if not node.ready:
        return "is not Ready"
    kept = quarantine.obstacle(node)
    if kept is not None:
        # whatever the class tolerates
        return kept
    if node.unschedulable:
        return "is cordoned"
    if not tolerated(node.taints, tolerations):
        return "has a taint that is not tolerated"
    arch = node.labels.get(names.ARCH_LABEL, kind.spec.cpu_architecture)
    if arch != kind.spec.cpu_architecture:
        return f"is {arch}, not {kind.spec.cpu_architecture}"
    return None


def _told(obstacles: Mapping[str, str | None]) -> str:
    reasons = [f'"{name}" {obstacles[name]}' for name in sorted(obstacles) if obstacles[name]]
    if not reasons:
        return ""
    return f" ({', '.join(reasons[:3])}{', ...' if len(reasons) > 3 else ''})"


def _take(
    phase: Phase,
    placement: Placement,
    world: observe.World,
    free: dict[tuple[str, str], int],
    held: dict[str, set[str]],
) -> None:
    kind = world.classes[phase.accelerator_class].spec
    for node in placement.nodes:
        free[node, kind.gpu_resource] -= phase.gpus_per_node or kind.gpus_per_node
    if phase.pool:
        held.setdefault(phase.pool, set()).update(placement.nodes)


def tolerated(taints: Sequence[observe.Taint], tolerations: Sequence[Toleration]) -> bool:
    """Whether a pod with these tolerations may be scheduled past these taints."""
    return all(
        taint.effect == "PreferNoSchedule" or any(_tolerates(t, taint) for t in tolerations)
        for taint in taints
    )


def _tolerates(toleration: Toleration, taint: observe.Taint) -> bool:
    if toleration.effect not in (None, taint.effect):
        return False
    if not toleration.key:
        return toleration.operator == "Exists"
    if toleration.key != taint.key:
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == taint.value
