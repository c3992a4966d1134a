"""Everything that surrounds an operator in a cluster, as one thing to start: the controllers, the
scheduler, the garbage collector and the kubelets, each a loop over what it sees.
"""

import asyncio
from collections.abc import Awaitable, Mapping

from curriculum_operator import cluster, kinds, names
from curriculum_operator.clock import Clock
from curriculum_operator.cluster import Raw

from . import collector, job_controller, scheduler, training_operator
from .informer import Admin, View
from .kubelets import Kubelets, Report
from .script import Script

SEEN = (
    kinds.CURRICULA,
    kinds.PYTORCHJOBS,
    kinds.JOBS,
    kinds.PODS,
    kinds.NODES,
    kinds.CONFIGMAPS,
)


class Datacentre:
    """The actors, and the view that they share."""

    def __init__(
        self, to: Admin, clock: Clock, script: Script, *, report: Report, beat_seconds: float = 1.0
    ) -> None:
        self.view = View(to, SEEN)
        self.kubelets = Kubelets(
            self.view, to, clock, script, report=report, beat_seconds=beat_seconds
        )
        self._to = to
        self._clock = clock

    async def run(self) -> None:
        """Act until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.view.run(), name="view")
            await self.view.synced.wait()
            group.create_task(self._act(group), name="actors")

    async def _act(self, group: asyncio.TaskGroup) -> None:
        while True:
            seen = self.view.turns
            await self._turn(group)
            await self.view.turn_after(seen)

    async def _turn(self, group: asyncio.TaskGroup) -> None:
        now = self._clock.now()
        for job in self.view.all(kinds.PYTORCHJOBS):
            await _try(training_operator.reconcile(job, self.view, self._to, now))
        for job in self.view.all(kinds.JOBS):
            await _try(job_controller.reconcile(job, self.view, self._to, now))
        for pod in self.view.all(kinds.PODS):
            await _try(scheduler.reconcile(pod, self.view, self._to))
        self.kubelets.look(group)
        await collector.collect(self.view, self._to)

    # What a play does to nodes.

    async def set_ready(self, node: str, *, ready: bool) -> None:
        """Stop or start a node's kubelet, and have the node say so."""
        if ready:
            self.kubelets.down.discard(node)
        else:
            self.kubelets.down.add(node)
        while True:
            there = await self._to.get(kinds.NODES, node)
            there["status"]["conditions"] = [ready_condition(self._clock, ready=ready)]
            try:
                await self._to.replace_status(kinds.NODES, there)
                return
            except cluster.Conflict:
                continue


def node(
    clock: Clock,
    name: str,
    *,
    gpus: int,
    arch: str,
    labels: Mapping[str, str],
    taints: list[Raw] | None = None,
) -> Raw:
    """A Ready node with accelerators."""
    resources = {"cpu": "64", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {names.ARCH_LABEL: arch, names.HOSTNAME_LABEL: name, **labels},
        },
        "spec": {"taints": taints} if taints else {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [ready_condition(clock, ready=True)],
        },
    }


def ready_condition(clock: Clock, *, ready: bool) -> Raw:
    """A node's Ready condition, changed now."""
    time = clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": "Ready",
        "status": "True" if ready else "Unknown",
        "reason": "KubeletReady" if ready else "NodeStatusUnknown",
        "message": "",
        "lastTransitionTime": time,
        "lastHeartbeatTime": time,
    }


async def _try(work: Awaitable[None]) -> None:
    try:
        await work
    except (cluster.Conflict, cluster.NotFound):
        return  # Old news: the watch brings the new ones.
