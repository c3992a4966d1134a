"""`curriculum doctor --measure`: what a phase's preflight would find of nodes, asked for by hand.

On a cluster it needs, with the user's own rights: to get nodes, acceleratorclasses, and to list
rentedpools and pods of all namespaces, for who holds accelerators; in the namespace to create
and delete pytorchjobs and configmaps, and to get pods and pods/log. What it makes it removes; where
it is killed before, the training-operator does.
"""

import asyncio
import contextlib
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from curriculum_api.preflight.figures import Proof, RunPreflight
from curriculum_api.run import PhaseResult
from curriculum_api.wire import Precision
from curriculum_cli import cluster_checks, machine
from curriculum_operator import cluster, kinds, names, observe, project
from curriculum_operator.build import proof
from curriculum_operator.cluster import Cluster, Raw

LOOK_SECONDS = 1.0
TAIL_LINES = 20

START_SECONDS = 120
"""For what measured pods do beside measuring: to load torch, to meet, to end."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The nodes to be measured, and what they are."""

    nodes: tuple[str, ...]
    kind: observe.AcceleratorClass
    pool: observe.RentedPool | None


async def on_cluster(
    there: Cluster,
    nodes: Sequence[str],
    *,
    namespace: str,
    claim: str = "",
    profiles: Mapping[str, str],
    say: Callable[[str], None],
    wait_seconds: float = 600,
) -> Proof:
    """Measure nodes of one class, and the links between them, in pods as a phase's would be.

    Args:
        claim: a PersistentVolumeClaim on which storage is measured; it is not where there is none.
        profiles: the site's own fabric profiles.
        say: is told what is waited for, whenever that changes.
        wait_seconds: how long the pods may take to start.

    Raises:
        ValueError: they cannot be measured; one line says why and what to do.
    """
    with _told(namespace):
        place = await _place(there, nodes)
        asked = proof.asked(place.kind.spec)
        name = f"{names.DOCTOR}-{secrets.token_hex(4)}"
        job = proof.pytorchjob(
            name,
            namespace,
            place.kind,
            place.pool,
            nodes=place.nodes,
            claim=claim,
            site=profiles,
            deadline_seconds=round(wait_seconds) + asked.seconds + START_SECONDS,
        )
        try:
            made = await there.create(kinds.PYTORCHJOBS, job)
            run = proof.config_map(
                made, place.kind, place.pool, nodes=place.nodes, claim=claim, site=profiles
            )
            await there.create(kinds.CONFIGMAPS, run)
            gang = _Gang(there, namespace, name, place)
            return await gang.proof(wait_seconds, asked.seconds + START_SECONDS, say)
        finally:
            await _remove(there, namespace, name, say)


def on_this_machine(processes: int, folder: Path) -> Proof:
    """Measure this machine: its processes one by one and in pairs, and the storage at `folder`.

    Raises:
        ValueError: it could not be measured.
    """
    machine.check()
    run = proof.phase_run(
        nodes=processes,
        processes_per_node=1,
        precision=Precision.BF16 if machine.gpus() else Precision.FP32,
        preflight=RunPreflight(),
        checkpoints_dir=str(folder.resolve()),
    )
    was_there = folder.exists()
    with tempfile.TemporaryDirectory(prefix="curriculum-") as scratch:
        path = Path(scratch) / "run.json"
        path.write_text(run.model_dump_json(by_alias=True, exclude_none=True))
        done = subprocess.run(
            [sys.executable, "-m", "curriculum_trainer.prove", "--run", str(path), "--here"],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    if not was_there:
        with contextlib.suppress(OSError):
            folder.rmdir()
    if done.returncode:
        last = _last_line(done.stderr) or f"exit code {done.returncode} and not a word"
        raise ValueError(f"this machine could not be measured: {last}")
    return _parsed(_last_line(done.stdout), "the trainer of this machine")


async def _place(there: Cluster, nodes: Sequence[str]) -> _Place:
    """What the nodes are, where they can be measured now."""
    if not nodes or len(set(nodes)) < len(nodes):
        raise ValueError(f'cannot measure "{",".join(nodes)}": name each node once')
    found = [await _node(there, name) for name in nodes]
    first, *others = found
    called = first.labels[names.CLASS_LABEL]
    for other in others:
        if other.labels[names.CLASS_LABEL] != called:
            raise ValueError(
                f'node "{first.name}" is of class "{called}" and node "{other.name}" of class '
                f'"{other.labels[names.CLASS_LABEL]}": name nodes of one class'
            )
    try:
        kind = project.accelerator_class(await there.get(kinds.CLASSES, called))
    except cluster.NotFound:
        raise ValueError(
            f'node "{first.name}" is of accelerator class "{called}", which does not exist: '
            "create it, or correct the label"
        ) from None
    pools, _ = await there.list(kinds.POOLS)
    for node in found:
        await _check_free(there, node, kind.spec.gpu_resource, kind.spec.gpus_per_node)
    rented = cluster_checks.pools_of(found, kind, map(project.rented_pool, pools))
    return _Place(tuple(nodes), kind, next(iter(rented), None))


async def _node(there: Cluster, name: str) -> observe.Node:
    try:
        node = project.node(await there.get(kinds.NODES, name))
    except cluster.NotFound:
        raise ValueError(f'node "{name}" does not exist: see kubectl get nodes') from None
    if not node.labels.get(names.CLASS_LABEL):
        why = node.annotations.get(names.CLASS_REASON_ANNOTATION, "nobody has recognised it")
        raise ValueError(
            f'node "{name}" has no accelerator class ({why}): add a class that matches it, or '
            f"label it {names.CLASS_LABEL}=NAME"
        )
    if not node.ready:
        raise ValueError(f'node "{name}" is not Ready: look at its kubelet first')
    return node


async def _check_free(there: Cluster, node: observe.Node, resource: str, wanted: int) -> None:
    offered = dict(node.extended).get(resource, 0)
    if offered < wanted:
        raise ValueError(
            f'node "{node.name}" offers {offered} of the {wanted} {resource} that its class has: '
            "look at its device plugin"
        )
    pods, _ = await there.list(kinds.PODS, field_selector=f"spec.nodeName={node.name}")
    holders = {
        f"{raw['metadata']['namespace']}/{raw['metadata']['name']}": count
        for raw in pods
        if (count := dict(project.held(raw)).get(resource, 0))
    }
    left = offered - sum(holders.values())
    if left < wanted:
        told = " and ".join(f'pod "{name}" holds {count}' for name, count in holders.items())
        raise ValueError(
            f'node "{node.name}" has {left} of {offered} {resource} left, {told}: wait for its end'
            ", or measure another node"
        )


@dataclass(frozen=True, slots=True)
class _Gang:
    """The pods that measure, as they are seen from outside."""

    there: Cluster
    namespace: str
    job: str
    place: _Place

    async def proof(
        self, wait_seconds: float, measure_seconds: float, say: Callable[[str], None]
    ) -> Proof:
        """What the leading one found, once it has ended well."""
        now = asyncio.get_running_loop().time
        until, runs, told = now() + wait_seconds, False, ""
        while True:
            try:
                pods = [await self._pod(name) for name in self._names]
                found = await self._end(pods)
                what = self._waits_for(pods)
            except cluster.Unavailable as error:
                found, what = None, f"the cluster to answer: {_one_line(error)}"
            if found is not None:
                return found
            if not what and not runs:
                until, runs = now() + measure_seconds, True
            what = what or f"{', '.join(self.place.nodes)} to be measured"
            if what != told:
                say(f"waiting for {what}")
                told = what
            if now() >= until:
                limit = measure_seconds if runs else wait_seconds
                raise ValueError(
                    f"nothing was measured: {limit:.0f} s went by in waiting for {what}: see what "
                    "stands in its way, and ask again"
                )
            await asyncio.sleep(LOOK_SECONDS)

    @property
    def _names(self) -> list[str]:
        replicas = ["master-0", *(f"worker-{n}" for n in range(len(self.place.nodes) - 1))]
        return [names.pod_name(self.job, replica) for replica in replicas]

    async def _pod(self, name: str) -> Raw | None:
        try:
            return await self.there.get(kinds.PODS, name, self.namespace)
        except cluster.NotFound:
            return None

    async def _end(self, pods: Sequence[Raw | None]) -> Proof | None:
        """What came of it; None while it goes on."""
        ended = {
            raw["metadata"]["name"]: (raw, end)
            for raw in pods
            if raw and (end := project.ended(raw, project.TRAIN_CONTAINER))
        }
        failed = [(raw, end) for raw, end in ended.values() if end.exit_code]
        if failed:
            raw, end = min(failed, key=lambda one: one[1].finished)
            raise ValueError(f"{_called(raw)} ended with {await self._why(raw, end)}")
        for pod in pods:
            if pod and (pod.get("status") or {}).get("phase") == "Failed":
                why = _one_line(pod["status"].get("message") or pod["status"].get("reason") or "")
                raise ValueError(
                    f"{_called(pod)} was ended from outside: {why or 'no reason told'}"
                )
        leader = self._names[0]
        if leader not in ended:
            return None
        return _parsed(_last_line(await self._log(leader)), f'pod "{leader}"')

    async def _why(self, raw: Raw, end: observe.Ended) -> str:
        """By the trainer's own account, or else its last word."""
        try:
            told = PhaseResult.model_validate_json(end.message)
        except ValidationError:
            log = ""
            with contextlib.suppress(cluster.ClusterError):
                log = await self._log(raw["metadata"]["name"])
            return f"exit code {end.exit_code}: {_last_line(log) or end.reason}"
        return f"{told.outcome}: {told.message}"

    async def _log(self, pod: str) -> str:
        return await self.there.log(
            self.namespace, pod, container=project.TRAIN_CONTAINER, tail=TAIL_LINES
        )

    def _waits_for(self, pods: Sequence[Raw | None]) -> str:
        """What keeps the first of the pods that do not run; empty where all do, or have."""
        for name, raw in zip(self._names, pods, strict=True):
            if raw is None:
                return f'the training-operator to make pod "{name}"'
            if (raw.get("status") or {}).get("phase") not in (None, "Pending"):
                continue
            why = project.trouble(raw, project.TRAIN_CONTAINER)
            if why:
                return f"{_called(raw)}, which does not start: {_one_line(why)}"
            if not raw["spec"].get("nodeName"):
                return f"{_called(raw)} to be scheduled"
            return f"{_called(raw)} to start, its image may have to be pulled"
        return ""


async def _remove(there: Cluster, namespace: str, name: str, say: Callable[[str], None]) -> None:
    for kind in (kinds.PYTORCHJOBS, kinds.CONFIGMAPS):
        try:
            await there.delete(kind, name, namespace)
        except cluster.NotFound:
            continue
        except cluster.ClusterError as error:
            say(
                f'{kind.kind} "{namespace}/{name}" is still there ({_one_line(error)}): delete it, '
                "or leave it to the training-operator"
            )


@contextlib.contextmanager
def _told(namespace: str) -> Iterator[None]:
    """The cluster's refusals in one line."""
    try:
        yield
    except cluster.NotFound as error:
        raise ValueError(
            f'namespace "{namespace}" takes no measurement: {_one_line(error)}: name a namespace '
            "that exists, and install the training-operator and this operator's kinds"
        ) from error
    except cluster.Unavailable as error:
        raise ValueError(f"the cluster does not answer: {_one_line(error)}") from error
    except cluster.Refused as error:
        raise ValueError(f"the cluster refuses it: {_one_line(error.message)}") from error
    except cluster.ClusterError as error:
        raise ValueError(f"the cluster does not do it: {_one_line(error)}") from error


def _parsed(line: str, who: str) -> Proof:
    try:
        return Proof.model_validate_json(line)
    except ValidationError as error:
        raise ValueError(
            f'{who} ended well, but its last line is no measurement: "{line[:120]}": use a trainer '
            "of this program's version"
        ) from error


def _called(raw: Raw) -> str:
    node = raw["spec"].get("nodeName")
    return f'pod "{raw["metadata"]["name"]}"' + (f" on {node}" if node else "")


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
