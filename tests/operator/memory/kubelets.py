"""The kubelets of all nodes: they run what the scheduler bound, and end it by the script.

They are also the witnesses: what ran where, from which checkpoint, and whether two generations
of one curriculum ever ran at once.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from curriculum_api.preflight.figures import Findings, Measured, Proof
from curriculum_api.run import EXIT_CODES, CheckpointRef, PhaseResult, PhaseRun
from curriculum_api.wire import Outcome
from curriculum_operator import cluster, kinds, names
from curriculum_operator.clock import Clock
from curriculum_operator.cluster import Raw

from .informer import Admin, View
from .script import Check, Failure, Plan, Script
from .training_operator import delete

Report = Callable[[PhaseRun, int, Measured | None], None]
"""Called with a finished step: whose it is, percent of the phase, and what was measured first."""

START = 1.0
"""Beats from the binding of a pod to its running container."""

TERMINATION = 0.1
"""Beats from SIGTERM to the end of a trainer that saves and goes."""


@dataclass(slots=True)
class Witness:
    """What was seen of the trainings themselves."""

    checkpoints: dict[str, str] = field(default_factory=dict)
    """Digests of complete checkpoints by URI: the checkpoints volume."""

    started: list[PhaseRun] = field(default_factory=list)
    """One entry for every master container that began."""

    nodes: dict[tuple[str, str, int], set[str]] = field(default_factory=dict)
    """Nodes that pods of an attempt ran on."""

    running: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    """Attempts of the training containers that run now, by pod UID."""

    overlaps: list[str] = field(default_factory=list)
    """Moments in which two attempts of one curriculum ran at once: there must be none."""

    def begins(self, uid: str, attempt: tuple[str, str, int], node: str) -> None:
        """A training container begins."""
        for other in self.running.values():
            if other[0] == attempt[0] and other != attempt:
                self.overlaps.append(f"{attempt} began while {other} ran")
        self.running[uid] = attempt
        self.nodes.setdefault(attempt, set()).add(node)


class Kubelets:
    """One task per bound pod. `beat_seconds` is how long a beat of the script takes."""

    def __init__(
        self,
        view: View,
        to: Admin,
        clock: Clock,
        script: Script,
        *,
        report: Report,
        beat_seconds: float = 1.0,
    ) -> None:
        self.witness = Witness()
        self.down: set[str] = set()
        """Nodes whose kubelet is silent: nothing is written of their pods."""

        self._view = view
        self._to = to
        self._clock = clock
        self._script = script
        self._report = report
        self._beat_seconds = beat_seconds
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def look(self, group: asyncio.TaskGroup) -> None:
        """Take up pods that were bound, and drop those that are gone."""
        pods = {pod["metadata"]["uid"]: pod for pod in self._view.all(kinds.PODS)}
        for uid, pod in pods.items():
            if pod["spec"].get("nodeName") and uid not in self._tasks:
                self._tasks[uid] = group.create_task(self._run(pod), name=pod["metadata"]["name"])
        for uid in [uid for uid in self._tasks if uid not in pods]:
            self._tasks.pop(uid).cancel()
            self.witness.running.pop(uid, None)

    async def _run(self, pod: Raw) -> None:
        uid = pod["metadata"]["uid"]
        try:
            await self._live(pod, _role(pod))
        except (cluster.NotFound, cluster.Conflict):
            pass  # Deleted by force meanwhile.
        finally:
            self.witness.running.pop(uid, None)

    async def _live(self, pod: Raw, role: str) -> None:
        if await self._deleted(pod, START):
            await self._gone(pod)
            return
        run = await self._mounted(pod)
        if run is None:
            await self._gone(pod)
            return
        if role == names.ROLE_VERIFY:
            await self._verify(pod, run)
        elif role == names.DOCTOR:
            await self._measure(pod, run)
        else:
            await self._train(pod, run)

    async def _train(self, pod: Raw, run: PhaseRun) -> None:
        plan = self._script.plan(run.curriculum, run.phase, run.attempt)
        replica = _replica(pod)
        if replica in plan.stuck:
            await self._stuck(pod)
            return
        attempt = (run.curriculum_uid, run.phase, run.attempt)
        self.witness.begins(pod["metadata"]["uid"], attempt, pod["spec"]["nodeName"])
        if replica == "master-0":
            self.witness.started.append(run)
        await self._write(pod, "Running", {"running": {"startedAt": self._time()}})
        if plan.measured is not None and replica == "master-0":
            self._report(run, 0, plan.measured)
        failure = plan.fails.get(replica)
        if failure is not None:
            deleted = await self._deleted(pod, failure.after)
        else:
            deleted = await self._steps(pod, run, plan, master=replica == "master-0")
        self.witness.running.pop(pod["metadata"]["uid"], None)
        if deleted:
            await self._terminate(pod, run, plan)
        elif failure is not None:
            await self._fail(pod, run, failure)
        else:
            checkpoint = self._save(run)
            await self._end(pod, 0, _result(run, Outcome.SUCCEEDED, checkpoint=checkpoint))

    async def _measure(self, pod: Raw, run: PhaseRun) -> None:
        """A pod of `curriculum doctor`: the leading one prints what the script says."""
        plan = self._script.plan(run.curriculum, run.phase, run.attempt)
        meta, replica = pod["metadata"], _replica(pod)
        if replica in plan.stuck:
            await self._stuck(pod)
            return
        await self._write(pod, "Running", {"running": {"startedAt": self._time()}})
        await self._to.printed(meta["namespace"], meta["name"], "gloo says hello")
        failure = plan.fails.get(replica)
        if await self._deleted(pod, failure.after if failure else plan.seconds):
            await self._gone(pod)
        elif failure is not None:
            await self._to.printed(meta["namespace"], meta["name"], failure.message)
            await self._fail(pod, run, failure)
        else:
            if plan.measured is not None and replica == "master-0":
                found = Proof(measured=plan.measured).model_dump_json(by_alias=True)
                await self._to.printed(meta["namespace"], meta["name"], found)
            await self._end(pod, 0, _result(run, Outcome.SUCCEEDED))

    async def _stuck(self, pod: Raw) -> None:
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
        await self._write(pod, "Pending", waiting)
        await self._deleted(pod, None)
        await self._gone(pod)

    async def _steps(self, pod: Raw, run: PhaseRun, plan: Plan, *, master: bool) -> bool:
        """Train to the end. True where the pod was deleted before that."""
        while not self._whole(pod, run):
            if await self._deleted(pod, 0.25):
                return True
        done = 0.0
        for beat in plan.beats if master else ():
            if await self._deleted(pod, beat - done):
                return True
            done = beat
            if pod["spec"]["nodeName"] not in self.down:
                self._report(run, min(99, round(100 * beat / plan.seconds)), None)
        return await self._deleted(pod, plan.seconds - done)

    def _whole(self, pod: Raw, run: PhaseRun) -> bool:
        labels = pod["metadata"]["labels"]
        same = (
            names.CURRICULUM_UID_LABEL,
            names.PHASE_LABEL,
            names.ATTEMPT_LABEL,
            names.ROLE_LABEL,
        )
        gang = [
            other
            for other in self._view.all(kinds.PODS)
            if all(other["metadata"]["labels"].get(key) == labels.get(key) for key in same)
            and (other.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed")
        ]
        return len(gang) == run.nodes

    async def _verify(self, pod: Raw, run: PhaseRun) -> None:
        check = self._script.check(run.curriculum, run.phase, run.attempt)
        await self._write(pod, "Running", {"running": {"startedAt": self._time()}})
        if await self._deleted(pod, check.seconds):
            await self._gone(pod)
            return
        await self._end(pod, *self._verdict(run, check))

    def _verdict(self, run: PhaseRun, check: Check) -> tuple[int, PhaseResult | None]:
        if check.silent:
            return 0, None
        if check.broken_file is not None:
            message = f'file "{check.broken_file}" does not match its digest'
            code = EXIT_CODES[Outcome.CHECKPOINT_ERROR]
            return code, _result(run, Outcome.CHECKPOINT_ERROR, message=message)
        uri = _uri(run)
        digest = self.witness.checkpoints[uri]
        checkpoint = CheckpointRef(uri=uri, step=10, tokens=run.tokens, digest=digest)
        return 0, _result(run, Outcome.SUCCEEDED, checkpoint=checkpoint)

    async def _terminate(self, pod: Raw, run: PhaseRun, plan: Plan) -> None:
        """SIGTERM: a trainer saves and goes; one that hangs is killed after its grace."""
        hangs = not plan.beats and _replica(pod) not in plan.fails
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        await asyncio.sleep((grace if hangs else TERMINATION) * self._beat_seconds)
        if hangs:
            await self._end(pod, 137, None)
        else:
            await self._end(pod, EXIT_CODES[Outcome.PREEMPTED], _result(run, Outcome.PREEMPTED))
        await self._gone(pod)

    async def _fail(self, pod: Raw, run: PhaseRun, failure: Failure) -> None:
        result = None
        if failure.outcome is not None:
            result = _result(
                run, failure.outcome, message=failure.message, preflight=failure.preflight
            )
        await self._end(
            pod, failure.exit_code, result, reason=failure.reason, disrupted=failure.disrupted
        )

    async def _end(
        self,
        pod: Raw,
        code: int,
        result: PhaseResult | None,
        *,
        reason: str = "",
        disrupted: bool = False,
    ) -> None:
        terminated: Raw = {
            "exitCode": code,
            "reason": reason or ("Error" if code else "Completed"),
            "startedAt": self._time(),
            "finishedAt": self._time(),
        }
        if result is not None:
            terminated["message"] = result.model_dump_json(by_alias=True, exclude_none=True)
        phase = "Failed" if code else "Succeeded"
        await self._write(pod, phase, {"terminated": terminated}, disrupted=disrupted)

    async def _write(self, pod: Raw, phase: str, state: Raw, *, disrupted: bool = False) -> None:
        """Write a pod's status, once its node's kubelet can."""
        meta = pod["metadata"]
        container = pod["spec"]["containers"][0]
        status: Raw = {
            "phase": phase,
            "startTime": self._time(),
            "containerStatuses": [
                {
                    "name": container["name"], "image": container["image"], "imageID": "sha256:0",
                    "ready": phase == "Running", "restartCount": 0, "state": state,
                }
            ],
        }  # fmt: skip
        if disrupted:
            status["conditions"] = [
                {
                    "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
                    "message": "", "lastTransitionTime": self._time(),
                }
            ]  # fmt: skip
        while True:
            await self._up(pod)
            newest = await self._to.get(kinds.PODS, meta["name"], meta["namespace"])
            if newest["metadata"]["uid"] != meta["uid"]:
                raise cluster.NotFound(meta["name"])
            try:
                await self._to.replace_status(kinds.PODS, {**newest, "status": status})
                return
            except cluster.Conflict:
                continue

    async def _gone(self, pod: Raw) -> None:
        await self._up(pod)
        await delete(kinds.PODS, pod, self._to, grace=0)

    async def _mounted(self, pod: Raw) -> PhaseRun | None:
        """The PhaseRun of its ConfigMap, waited for; None where the pod is deleted first."""
        volumes = pod["spec"]["volumes"]
        name = next(v["configMap"]["name"] for v in volumes if "configMap" in v)
        while True:
            try:
                found = await self._to.get(kinds.CONFIGMAPS, name, pod["metadata"]["namespace"])
                return PhaseRun.model_validate_json(found["data"]["run.json"])
            except cluster.NotFound:
                if await self._deleted(pod, 1.0):
                    return None

    async def _deleted(self, pod: Raw, beats: float | None) -> bool:
        """Wait for a while. True as soon as the pod is to go."""
        try:
            async with asyncio.timeout(
                None if beats is None else max(0.0, beats) * self._beat_seconds
            ):
                async with self._view.changed:
                    await self._view.changed.wait_for(lambda: self._leaving(pod))
            return True
        except TimeoutError:
            return False

    def _leaving(self, pod: Raw) -> bool:
        meta = pod["metadata"]
        newest = self._view.find(kinds.PODS, meta["name"], meta["namespace"])
        return newest is not None and "deletionTimestamp" in newest["metadata"]

    async def _up(self, pod: Raw) -> None:
        async with self._view.changed:
            await self._view.changed.wait_for(lambda: pod["spec"]["nodeName"] not in self.down)

    def _save(self, run: PhaseRun) -> CheckpointRef:
        digest = hashlib.sha256(f"{run.phase} from {run.init_digest}".encode()).hexdigest()
        uri = _uri(run)
        self.witness.checkpoints[uri] = f"sha256:{digest}"
        return CheckpointRef(uri=uri, step=10, tokens=run.tokens, digest=f"sha256:{digest}")

    def _time(self) -> str:
        return self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")


def _uri(run: PhaseRun) -> str:
    return f"{run.checkpoint_path}/step-10"


def _result(
    run: PhaseRun,
    outcome: Outcome,
    *,
    message: str = "",
    checkpoint: CheckpointRef | None = None,
    preflight: Findings | None = None,
) -> PhaseResult:
    return PhaseResult(
        preflight=preflight,
        outcome=outcome,
        message=message,
        phase=run.phase,
        attempt=run.attempt,
        step=10 if checkpoint else 0,
        tokens=run.tokens if checkpoint else 0,
        checkpoint=checkpoint,
        loss_first=4.0,
        loss_last=2.5,
        seconds=120.0,
        world_size=run.world_size,
        evaluation={"perplexity": 10.41, "needle/50": 0.62} if run.evaluation else {},
    )


def _role(pod: Raw) -> str:
    labels: dict[str, str] = pod["metadata"]["labels"]
    if names.MEASUREMENT_LABEL in labels:
        return labels[names.MANAGED_BY_LABEL]
    return labels[names.ROLE_LABEL]


def _replica(pod: Raw) -> str:
    labels = pod["metadata"]["labels"]
    return f"{labels[names.REPLICA_TYPE_LABEL]}-{labels[names.REPLICA_INDEX_LABEL]}"
