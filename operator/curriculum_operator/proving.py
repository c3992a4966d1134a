"""What preflights found, on its way to the nodes that it is about.

Figures come with a trainer's progress, findings in the termination messages of pods that ended.
Both are kept here only until they are written on the node. After a restart the pods that are still
there tell their findings again; one that a node already bears changes nothing.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from curriculum_api.preflight.figures import Measured
from curriculum_operator import account, cluster, execute, kinds, names, observe, project, record
from curriculum_operator import quarantine as quarantines
from curriculum_operator.clock import Clock
from curriculum_operator.cluster import Cluster
from curriculum_operator.lease import Lease
from curriculum_operator.observe import AttemptKey
from curriculum_operator.quarantine import Finding
from curriculum_operator.stores import Stores

logger = logging.getLogger(__name__)

ROUNDS = 3
"""How often a node may be found changed, and read again, before it has to wait."""

SUSPECTS = '"suspects"'
"""In every termination message that names some; the others need not be parsed."""


@dataclass(slots=True)
class _Told:
    """The figures of one preflight, and the nodes that do not bear them yet."""

    measured: Measured
    left: set[str]


class Proving:
    """Findings and figures that are to be written on nodes."""

    def __init__(self, cluster: Cluster, clock: Clock, *, stores: Stores, lease: Lease) -> None:
        self._cluster = cluster
        self._clock = clock
        self._stores = stores
        self._lease = lease
        self._findings: dict[str, tuple[AttemptKey | None, Finding]] = {}
        """By node, with the attempt that told it; None where several attempts together did."""

        self._told: dict[str, _Told] = {}
        """By node."""

    def ended(self, pod: observe.Pod) -> Iterable[str]:
        """Take in what an ended pod says; the nodes that it speaks of."""
        if pod.ended is None or SUSPECTS not in pod.ended.message:
            return ()
        told = account.parse(pod.ended.message)
        if told is None or told.preflight is None:
            return ()
        attempt = (pod.curriculum_uid, pod.phase, pod.attempt)
        for suspect in told.preflight.suspects:
            self._found(suspect.node, attempt, Finding(suspect, pod.ended.finished))
        return [suspect.node for suspect in told.preflight.suspects]

    def measured(self, attempt: AttemptKey, measured: Measured) -> Iterable[str]:
        """Take in what an attempt measured; the nodes of its gang, which alone it may speak of."""
        gang = self._gang(attempt)
        told = _Told(measured, gang & {node.node for node in measured.nodes})
        for name in told.left:
            self._told[name] = told
        return tuple(told.left)

    async def tend(self, name: str, wake: Callable[[str, float], None]) -> None:
        """Write on a node what it is to bear; `wake` has a node looked at after some seconds."""
        node = self._stores.nodes.get(name)
        told, finding = self._told.get(name), self._finding(name)
        for _ in range(ROUNDS):
            if node is None or self._change(node, told, finding) is None:
                break
            try:
                raw = await self._cluster.get(kinds.NODES, name)
                node = project.node(raw)
                change = self._change(node, told, finding)
                if change is None:
                    break
                raw = await execute.mark_node(
                    self._cluster, raw, change, check=self._lease.check, now=self._clock.now()
                )
            except cluster.NotFound:
                break
            except cluster.Conflict:
                continue
            self._stores.learn(kinds.NODES, raw)
            node = project.node(raw)
            if change.begins or change.ends:
                logger.info("%s", change.begins or change.ends)
            break
        else:
            raise cluster.Conflict(f'node "{name}" changes faster than it can be written')
        if self._findings.get(name, (None, None))[1] is finding:
            self._findings.pop(name, None)
        if told is not None:
            self._bears(name, told, wake)
        ends = None if node is None else quarantines.ends_in(node, self._clock.now())
        if ends is not None:
            wake(name, ends)

    def _change(
        self, node: observe.Node, told: _Told | None, finding: Finding | None
    ) -> quarantines.Change | None:
        kind = self._stores.classes.get(node.labels.get(names.CLASS_LABEL, ""))
        asked = kind.spec.preflight if kind else None
        now = self._clock.now()
        measured = None
        if told is not None and asked is not None:
            measured = record.taken(node.name, told.measured, record.read(node), now)
        return quarantines.change(
            node,
            finding=finding,
            measured=measured,
            seconds=asked.quarantine_seconds if asked else None,
            now=now,
        )

    def _bears(self, name: str, told: _Told, wake: Callable[[str, float], None]) -> None:
        """A node bears its figures now; once all of its gang do, they are judged together."""
        if self._told.get(name) is told:
            del self._told[name]
        told.left.discard(name)
        node = self._stores.nodes.get(name)
        kind = self._stores.classes.get(node.labels.get(names.CLASS_LABEL, "")) if node else None
        if told.left or kind is None:
            return
        now = self._clock.now()
        peers = [
            n for n in self._stores.nodes.values() if n.labels.get(names.CLASS_LABEL) == kind.name
        ]
        for suspect in record.suspects(kind.spec, told.measured, peers, now):
            self._found(suspect.node, None, Finding(suspect, now))
            wake(suspect.node, 0.0)

    def _found(self, name: str, attempt: AttemptKey | None, finding: Finding) -> None:
        known = self._findings.get(name)
        if known is None or known[1].since < finding.since:
            self._findings[name] = (attempt, finding)

    def _finding(self, name: str) -> Finding | None:
        """What was found of a node, where it was found by those who were on it."""
        attempt, finding = self._findings.get(name, (None, None))
        if finding is None or (attempt is not None and name not in self._gang(attempt)):
            return None
        return finding

    def _gang(self, attempt: AttemptKey) -> set[str]:
        uid, phase, number = attempt
        pods = self._stores.pods.by_owner.get(uid, ())
        return {pod.node for pod in pods if (pod.phase, pod.attempt) == (phase, number)}
