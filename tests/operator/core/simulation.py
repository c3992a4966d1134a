"""A small pure cluster around `step()`: it writes what a Step says, and lets things happen.

Training-operator, job controller, kubelets, users and time are one method each; an event is the
name of a method and a number. After each event the operator steps until nothing is left to do,
and what must always hold is asserted. No API server: the suite on the in-memory cluster has one.
"""

import functools
import json
from dataclasses import replace
from typing import Any

import jsonschema
import yaml

from curriculum_api.v1alpha1.status import CurriculumStatus
from curriculum_api.wire import State
from curriculum_operator import names, observe, project
from curriculum_operator.decision import stamp
from curriculum_operator.status import Difference, difference
from curriculum_operator.step import Step

from .builders import API, scene, verified

CRD = yaml.load((API.parents[1] / "crds" / "trainingcurricula.yaml").read_text(), yaml.CSafeLoader)
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

ROUNDS = 12
CODES = (0, 0, 0, 1, 2, 3, 6, 75, 137, 143)
SECONDS = (1, 5, 11, 30, 61, 310, 620)


@functools.lru_cache(maxsize=10_000)
def _validate(status: str) -> None:
    """By the CRD's schema; many runs come through the same statuses."""
    VALIDATOR.validate(json.loads(status))


class Simulation:
    """One curriculum and its cluster."""

    def __init__(self) -> None:
        self.scene = scene()
        self.jobs: dict[str, observe.Job] = {}
        self.pods: dict[str, observe.Pod] = {}
        self.verifications: dict[str, observe.Verification] = {}
        self.assumed: dict[observe.AttemptKey, observe.Assumed] = {}
        self.beats: dict[observe.AttemptKey, observe.Beat] = {}
        self.made: set[str] = set()
        self.good: set[str] = set()
        """Phases whose verification succeeded."""

        self.crashes = False
        self.num = 0
        self.operate()

    # The operator.

    def operate(self) -> None:
        """Step until nothing changes, and check that it comes to that."""
        for _ in range(ROUNDS):
            if not self._apply(self._step()):
                break
        else:
            raise AssertionError(f"does not come to rest: {self._step().rule}")
        again = self._step()
        assert again.creates == ()
        assert again.deletes == ()
        assert difference(self.scene.curriculum.status, again.status) is Difference.NONE

    def _step(self) -> Step:
        uid = self.scene.curriculum.uid
        self.scene = self.scene.having(
            jobs={uid: tuple(self.jobs.values())},
            pods={uid: tuple(self.pods.values())},
            verifications={uid: tuple(self.verifications.values())},
            assumed=self.assumed,
            beats=self.beats,
        )
        return self.scene.step()

    def _apply(self, step: Step) -> bool:
        """Write a step as the executor does; whether there was anything to write."""
        before = self.scene.curriculum.status
        changed = difference(before, step.status) is not Difference.NONE
        self._check(before, step)
        written = step.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        stored = CurriculumStatus.model_validate(written)
        assert stored == step.status, "the status does not survive the API server"
        self.scene = replace(self.scene, curriculum=replace(self.scene.curriculum, status=stored))
        if self.crashes and step.creates:
            self.crashes = False
            self.restart()
            return True
        for body in step.creates:
            self._create(body)
        for delete in step.deletes:
            self._delete(delete.kind.kind, delete.name, grace=delete.grace_seconds)
        return changed or bool(step.creates or step.deletes)

    def _check(self, before: CurriculumStatus, step: Step) -> None:
        document = step.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        _validate(json.dumps(document))
        spec = {phase.name: phase for phase in self.scene.curriculum.spec.phases}
        old = {phase.name: phase for phase in before.phases}
        done = True
        for phase in step.status.phases:
            assert phase.failures <= spec[phase.name].max_attempts
            if phase.name in old:
                assert phase.attempts >= old[phase.name].attempts
            assert done or phase.attempts == 0, "claimed before the checkpoint it starts from"
            done = phase.state is State.SUCCEEDED
            assert not done or (phase.name in self.good and phase.checkpoint is not None)
        for condition in step.status.conditions:
            if condition.type == names.SUSPENDED and condition.status == "True":
                assert not [job for job in self.jobs.values() if not job.finished]
                assert not self._training()

    def _create(self, body: dict[str, Any]) -> None:
        self.num += 1
        meta = {
            **body["metadata"],
            "uid": f"{body['kind']}-{self.num}",
            "creationTimestamp": stamp(self.scene.now),
        }
        name = f"{body['kind']} {meta['name']}"
        if body["kind"] == "PyTorchJob":
            assert name not in self.made, f"{name} is created twice"
            job = project.job({"metadata": meta})
            assert job is not None
            assert all(other.finished for other in self.jobs.values()), "two live jobs"
            reachable = {p.name for p in self._training() if self.scene.world.nodes[p.node].ready}
            assert not reachable, f"{name} is created while {reachable} may run"
            self.jobs[job.name] = job
        if body["kind"] == "Job":
            verification = project.verification({"metadata": meta})
            assert verification is not None
            assert verification.name not in self.verifications
            self.verifications[verification.name] = verification
        self.made.add(name)

    def _delete(self, kind: str, name: str, *, grace: int | None) -> None:
        match kind:
            case "PyTorchJob":
                assert not self.jobs[name].deleting
                self.jobs[name] = replace(self.jobs[name], deleting=True)
            case "Job":
                assert not self.verifications[name].deleting
                self.verifications[name] = replace(self.verifications[name], deleting=True)
            case "Pod":
                if grace == 0:
                    del self.pods[name]
                else:
                    self.pods[name] = replace(self.pods[name], deleting=True)

    def _training(self) -> list[observe.Pod]:
        pods = self.pods.values()
        return [p for p in pods if p.role == names.ROLE_TRAIN and not p.finished]

    # What happens. Every event takes a number that it may choose by.

    def wait(self, number: int) -> None:
        self.scene = self.scene.after(SECONDS[number % len(SECONDS)])

    def make_pods(self, number: int) -> None:
        """The training-operator makes the pods that live jobs lack, also one that was deleted."""
        for job in self.jobs.values():
            if job.finished or job.deleting:
                continue
            for index, node in enumerate(job.nodes):
                replica = "master-0" if index == 0 else f"worker-{index - 1}"
                name = f"{job.name}-{replica}"
                if name not in self.pods:
                    self._pod(job, name, replica, node)

    def run_pods(self, number: int) -> None:
        """Kubelets start what is new on their nodes."""
        for pod in self._training():
            if self.scene.world.nodes[pod.node].ready and not pod.deleting:
                self.pods[pod.name] = replace(pod, running=True)

    def go(self, number: int) -> None:
        """A gang forms at once."""
        self.make_pods(number)
        self.run_pods(number)

    def end_pod(self, number: int) -> None:
        """A container ends, well or not."""
        running = [
            p for p in self._training() if p.running and self.scene.world.nodes[p.node].ready
        ]
        if running:
            code = CODES[number % len(CODES)]
            self._end(running[number % len(running)], code, disrupted=number % 7 == 6)

    def fail_init(self, number: int) -> None:
        """An init container fails: the main one never runs."""
        for pod in self._training():
            if not pod.running and self.scene.world.nodes[pod.node].ready:
                self.pods[pod.name] = replace(pod, finished=True, trouble="init container failed")
                return

    def sync_jobs(self, number: int) -> None:
        """The training-operator and the garbage collector catch up."""
        for job in list(self.jobs.values()):
            pods = [
                p for p in self.pods.values() if (p.phase, p.attempt) == (job.phase, job.attempt)
            ]
            pods = [p for p in pods if p.role == names.ROLE_TRAIN]
            if job.deleting:
                del self.jobs[job.name]
                self._stop(pods)
                continue
            if job.finished:
                continue
            master = next((p for p in pods if p.replica == "master-0"), None)
            if master and master.ended and master.ended.exit_code == 0:
                self.jobs[job.name] = replace(job, succeeded=True, ended=self.scene.now)
                self._stop([p for p in pods if not p.finished])
            elif any(p.finished and (p.ended is None or p.ended.exit_code) for p in pods):
                self.jobs[job.name] = replace(job, failed=True, ended=self.scene.now)
                self._stop([p for p in pods if not p.finished])
        for name in [n for n, v in self.verifications.items() if v.deleting]:
            del self.verifications[name]
            self.pods.pop(f"{name}-pod", None)

    def reap(self, number: int) -> None:
        """Kubelets end what is being deleted, on nodes that are there."""
        for pod in list(self.pods.values()):
            if pod.deleting and (pod.finished or self.scene.world.nodes[pod.node].ready):
                del self.pods[pod.name]

    def delete_job(self, number: int) -> None:
        """A user deletes the job."""
        for job in self.jobs.values():
            self.jobs[job.name] = replace(job, deleting=True)

    def delete_pod(self, number: int) -> None:
        """A user deletes a pod."""
        pods = self._training()
        if pods:
            self._stop([pods[number % len(pods)]])

    def node_goes(self, number: int) -> None:
        self.scene = self.scene.node("ab"[number % 2], ready=False, ready_changed=self.scene.now)

    def node_comes(self, number: int) -> None:
        self.scene = self.scene.node("ab"[number % 2], ready=True, ready_changed=self.scene.now)

    def suspend(self, number: int) -> None:
        self.scene = self.scene.wanting(suspend=True)

    def resume(self, number: int) -> None:
        self.scene = self.scene.wanting(suspend=False)

    def restart(self, number: int = 0) -> None:
        """The operator starts anew: what it only remembered is gone."""
        self.assumed, self.beats = {}, {}
        self.scene = self.scene.having(listening_since=self.scene.now)

    def crash(self, number: int) -> None:
        """The operator will die between its next claim and what follows from it."""
        self.crashes = True

    def beat(self, number: int) -> None:
        at = self.scene.curriculum.current()
        if at is not None:
            key = (self.scene.curriculum.uid, at[1].name, at[2].attempts)
            self.beats[key] = observe.Beat(self.scene.now, number % 101, number, (("loss", "2"),))

    def verify(self, number: int) -> None:
        """A verification ends: its job, its pod, and with both what it found."""
        for verification in list(self.verifications.values()):
            if verification.finished or verification.deleting:
                continue
            good, told = number % 5 != 4, number % 7 != 6
            attempt = verification.attempt
            text = verified(phase=verification.phase, attempt=attempt) if good else "x" * 4096
            ended = observe.Ended(0 if good else 4, "", text if told else "", self.scene.now)
            name = f"{verification.name}-pod"
            self.verifications[verification.name] = replace(
                verification, succeeded=good, failed=not good, message="it failed\n" * 300
            )
            if good and told:
                self.good.add(verification.phase)
            self._pod(verification, name, "", "r", role=names.ROLE_VERIFY, finished=True)
            self.pods[name] = replace(self.pods[name], ended=ended)

    def benign(self) -> None:
        """From now on nothing goes wrong, and time passes."""
        for _ in range(2):
            self.resume(0)
            self.crashes = False
            self.node_comes(0)
            self.node_comes(1)
            self.operate()
        events = ("reap", "sync_jobs", "reap", "make_pods", "run_pods", "wait")
        for _ in range(60):
            if self.scene.curriculum.status.state in (State.SUCCEEDED, State.FAILED):
                return
            for name in events:
                self.happen(name, 3)
            for pod in self._training():
                if pod.running and not pod.deleting:
                    self._end(pod, 0)
            self.operate()
            self.happen("sync_jobs", 0)
            self.happen("verify", 0)
        raise AssertionError(f"does not end: {self._step().rule}: {self._step().status.conditions}")

    def happen(self, event: str, number: int) -> None:
        """One event, and the operator's answer."""
        getattr(self, event)(number)
        self.operate()

    def _stop(self, pods: list[observe.Pod]) -> None:
        for pod in pods:
            self.pods[pod.name] = replace(pod, deleting=True)

    def _end(self, pod: observe.Pod, code: int, *, disrupted: bool = False) -> None:
        ended = observe.Ended(code, "", "", self.scene.now)
        self.pods[pod.name] = replace(
            pod, running=False, finished=True, ended=ended, disrupted=disrupted
        )

    def _pod(
        self, of: observe.Child, name: str, replica: str, node: str, *,
        role: str = names.ROLE_TRAIN, finished: bool = False,
    ) -> None:  # fmt: skip
        self.num += 1
        self.pods[name] = observe.Pod(
            namespace=of.namespace, name=name, uid=f"pod-{self.num}",
            curriculum_uid=of.curriculum_uid, phase=of.phase, attempt=of.attempt,
            created=self.scene.now, deleting=False, role=role, replica=replica, node=node,
            running=False, finished=finished, ended=None, disrupted=False, trouble="",
            extended=(),
        )  # fmt: skip


EVENTS = (
    *("go",) * 6, *("end_pod",) * 4, *("sync_jobs",) * 4, *("reap",) * 3, *("verify",) * 3,
    *("wait",) * 3, "make_pods", "run_pods", "fail_init", "delete_job", "delete_pod", "node_goes",
    "node_comes", "node_comes", "suspend", "resume", "resume", "restart", "crash", "beat",
)  # fmt: skip
