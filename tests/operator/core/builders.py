"""Inputs for the pure core, made of the worked objects in tests/api: frozen, changed by copy.

A `Scene` is one curriculum in its world. Its methods return the next scene, so that a test reads
as what happened: `scene().started().formed().pod_ends("worker-0", code=2)`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from curriculum_api.run import CheckpointRef, PhaseResult
from curriculum_api.v1alpha1 import AcceleratorClass, RentedPool, TrainingCurriculum
from curriculum_api.v1alpha1.status import CurriculumStatus, PhaseStatus
from curriculum_api.wire import Outcome
from curriculum_operator import names, observe
from curriculum_operator.decision import Decision, stamp
from curriculum_operator.observe import Policy, World
from curriculum_operator.step import Step, step

API = Path(__file__).parents[2] / "api"
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
POLICY = Policy()
GPU = "nvidia.com/gpu"


def document(name: str) -> dict[str, Any]:
    """A worked object of tests/api."""
    # in C: hundreds of scenes read it
    loaded: dict[str, Any] = yaml.load((API / f"{name}.yaml").read_text(), yaml.CSafeLoader)
    return loaded


def accelerator(name: str = "gb10-sm121", **spec: Any) -> observe.AcceleratorClass:
    """The worked class, on a fabric profile that is there."""
    raw = document("accelerator-class")
    raw["metadata"]["name"] = name
    raw["spec"] |= {"fabric": {"profile": "gb10-switch"}, **spec}
    return observe.AcceleratorClass(name, AcceleratorClass.model_validate(raw).spec)


def b200(**spec: Any) -> observe.AcceleratorClass:
    """A class of eight accelerators in one node."""
    fields: dict[str, Any] = {
        "cpuArchitecture": "amd64",
        "gpusPerNode": 8,
        "trains": ["FP32", "BF16", "NVFP4"],
        "fabric": {"profile": "infiniband"},
    }
    return accelerator("b200-sm100", **(fields | spec))


def pool(**spec: Any) -> observe.RentedPool:
    raw = document("rented-pool")
    raw["spec"] |= spec
    return observe.RentedPool(raw["metadata"]["name"], RentedPool.model_validate(raw).spec)


def node(name: str, kind: str = "gb10-sm121", *, gpus: int = 1, **fields: Any) -> observe.Node:
    arch = "amd64" if kind.startswith("b200") else "arm64"
    labels = {names.CLASS_LABEL: kind, names.ARCH_LABEL: arch, "example.com/pool": "b200"}
    given: dict[str, Any] = {
        "labels": labels,
        "ready": True,
        "ready_changed": NOW - timedelta(days=1),
        "unschedulable": False,
        "taints": (),
        "extended": ((GPU, gpus),),
    }
    return observe.Node(name=name, **(given | fields))


def phase(name: str = "math", **fields: Any) -> dict[str, Any]:
    """A small phase, as a user writes it."""
    return {
        "name": name,
        "acceleratorClass": "gb10-sm121",
        "nodes": 2,
        "tokens": 65536,
        "contextLength": 256,
        "optimizer": {"learningRate": "3e-4"},
        "data": [{"source": "stdlib"}],
        **fields,
    }


def curriculum(
    name: str = "slm", *, phases: tuple[dict[str, Any], ...] = (), age: float = 60, **spec: Any
) -> observe.Curriculum:
    """A curriculum of two phases of two nodes each, or of those given."""
    raw = document("curriculum")
    made = {"model": {"preset": "tiny-4m"}, "phases": list(phases or (phase(), phase("code")))}
    raw["spec"] |= made | spec
    model = TrainingCurriculum.model_validate(raw)
    return observe.Curriculum(
        namespace="research",
        name=name,
        uid=f"uid-{name}",
        generation=1,
        resource_version="1",
        created=NOW - timedelta(seconds=age),
        deleting=False,
        spec=model.spec,
        status=CurriculumStatus(),
    )


def world(**fields: Any) -> World:
    """Two Sparks and one rented B200 node, both volumes, nothing else."""
    claims = [
        observe.Claim("research", name, ("ReadWriteMany",)) for name in ("corpus", "checkpoints")
    ]
    given: dict[str, Any] = {
        "curricula": {},
        "classes": {"gb10-sm121": accelerator(), "b200-sm100": b200()},
        "pools": {"b200-cloud": pool()},
        "profiles": {},
        "nodes": {n.name: n for n in (node("a"), node("b"), node("r", "b200-sm100", gpus=8))},
        "claims": {(c.namespace, c.name): c for c in claims},
        "jobs": {},
        "verifications": {},
        "pods": {},
        "occupants": {},
        "beats": {},
        "assumed": {},
        "clashes": {},
        "listening_since": NOW - timedelta(days=1),
    }
    return World(**(given | fields))


def result(outcome: Outcome = Outcome.SUCCEEDED, message: str = "", **fields: Any) -> str:
    """A PhaseResult as it stands in a termination message."""
    given: dict[str, Any] = {"phase": "math", "attempt": 1, "outcome": outcome, "message": message}
    return PhaseResult(**(given | fields)).model_dump_json(by_alias=True)


def verified(**fields: Any) -> str:
    """What a verification says of a good checkpoint."""
    reference = CheckpointRef(uri="p/step-4", step=4, tokens=65536, digest="sha256:" + "a" * 64)
    return result(checkpoint=reference, loss_first=5.5, loss_last=2.25, world_size=2, **fields)


@dataclass(frozen=True)
class Scene:
    """One curriculum, its world, and the time."""

    curriculum: observe.Curriculum
    world: World
    now: datetime = NOW
    policy: Policy = POLICY

    def step(self) -> Step:
        world = replace(self.world, curricula={self.curriculum.uid: self.curriculum})
        return step(self.curriculum, world, self.now, self.policy)

    @property
    def observed(self) -> observe.Observed:
        return observe.observe(self.curriculum, self.world, self.policy)

    @property
    def at_hand(self) -> PhaseStatus:
        current = self.curriculum.current()
        assert current is not None
        return current[2]

    def after(self, seconds: float) -> "Scene":
        return replace(self, now=self.now + timedelta(seconds=seconds))

    def having(self, **fields: Any) -> "Scene":
        """With fields of the world replaced."""
        return replace(self, world=replace(self.world, **fields))

    def wanting(self, **spec: Any) -> "Scene":
        """With fields of the spec replaced."""
        changed = self.curriculum.spec.model_copy(update=spec)
        return replace(self, curriculum=replace(self.curriculum, spec=changed))

    def stepped(self) -> "Scene":
        """With the status that the step writes; what it creates is not there."""
        return replace(self, curriculum=replace(self.curriculum, status=self.step().status))

    def with_phase(self, **fields: Any) -> "Scene":
        """With fields of the current phase's status replaced."""
        status = self.at_hand.model_copy(update=fields)
        phases = tuple(
            status if p.name == status.name else self.curriculum.phase_status(p.name)
            for p in self.curriculum.spec.phases
        )
        written = self.curriculum.status.model_copy(update={"phases": phases})
        return replace(self, curriculum=replace(self.curriculum, status=written))

    def started(self, *, pods: bool = True) -> "Scene":
        """An attempt is claimed, its job is there, its pods run."""
        scene = self.stepped()
        status = scene.at_hand
        assert status.job_ref is not None, self.step().rule
        assert scene.curriculum.current() is not None
        _, spec, _ = scene.curriculum.current()  # type: ignore[misc]
        job = observe.Job(
            namespace="research", name=status.job_ref.name, uid=f"job-{status.attempts}",
            curriculum_uid=scene.curriculum.uid, phase=status.name, attempt=status.attempts,
            created=self.now, deleting=False, succeeded=False, failed=False, message="",
            nodes=status.nodes, gpu_resource=GPU, gpus_per_node=1,
        )  # fmt: skip
        scene = scene.having(jobs={scene.curriculum.uid: (job,)})
        replicas = ("master-0", *(f"worker-{i}" for i in range(spec.nodes - 1)))
        if not pods:
            return scene
        made = tuple(
            self._pod(status, replica, at)
            for replica, at in zip(replicas, status.nodes, strict=True)
        )
        return scene.having(pods={scene.curriculum.uid: made})

    def formed(self) -> "Scene":
        """The gang was seen to be whole."""
        scene = self.stepped()
        assert scene.at_hand.formed_time == stamp(self.now)
        return scene

    def _pod(self, status: PhaseStatus, replica: str, at: str, **fields: Any) -> observe.Pod:
        given: dict[str, Any] = {
            "namespace": "research", "name": f"{status.name}-{replica}",
            "uid": f"{status.attempts}-{replica}", "curriculum_uid": self.curriculum.uid,
            "phase": status.name, "attempt": status.attempts, "created": self.now,
            "deleting": False, "role": names.ROLE_TRAIN, "replica": replica, "node": at,
            "running": True, "finished": False, "ended": None, "disrupted": False,
            "trouble": "", "extended": ((GPU, 1),),
        }  # fmt: skip
        return observe.Pod(**(given | fields))

    def pod(self, replica: str, **fields: Any) -> "Scene":
        """With fields of a pod replaced."""
        return self._pods(lambda p: replace(p, **fields) if p.replica == replica else p)

    def pod_ends(
        self, replica: str, *, code: int, at: float = 0, reason: str = "Error", message: str = "",
        **fields: Any,
    ) -> "Scene":  # fmt: skip
        """A pod's container ended `at` seconds from the scene's time."""
        ended = observe.Ended(code, reason, message, self.now + timedelta(seconds=at))
        return self.pod(replica, running=False, finished=True, ended=ended, **fields)

    def without_pod(self, replica: str) -> "Scene":
        return self._pods(lambda p: None if p.replica == replica else p)

    def _pods(self, change: Callable[[observe.Pod], observe.Pod | None]) -> "Scene":
        changed = (change(p) for p in self.world.pods.get(self.curriculum.uid, ()))
        return self.having(pods={self.curriculum.uid: tuple(p for p in changed if p)})

    def job(self, **fields: Any) -> "Scene":
        """With fields of the job replaced."""
        jobs = self.world.jobs[self.curriculum.uid]
        return self.having(jobs={self.curriculum.uid: tuple(replace(j, **fields) for j in jobs)})

    def job_fails(self, at: float = 0) -> "Scene":
        return self.job(failed=True, message="it failed", ended=self.now + timedelta(seconds=at))

    def job_succeeds(self, at: float = 0) -> "Scene":
        return self.job(succeeded=True, ended=self.now + timedelta(seconds=at))

    def node(self, name: str, **fields: Any) -> "Scene":
        """With fields of a node replaced."""
        changed = replace(self.world.nodes[name], **fields)
        return self.having(nodes={**self.world.nodes, name: changed})

    def beat(self, *, at: float = 0, **metrics: str) -> "Scene":
        """The trainer reported a finished step `at` seconds from the scene's time."""
        received = self.now + timedelta(seconds=at)
        beat = observe.Beat(received, 40, 90, tuple(metrics.items()))
        key = (self.curriculum.uid, self.at_hand.name, self.at_hand.attempts)
        return self.having(beats={key: beat})

    def ended_well(self) -> "Scene":
        """The attempt ended well and its job is finished."""
        return self.pod_ends("master-0", code=0).pod_ends("worker-0", code=0).job_succeeds()

    def verification(self, *, message: str | None, **fields: Any) -> "Scene":
        """A verification is there; it ended with `message` where one is given."""
        status = self.at_hand
        given: dict[str, Any] = {
            "namespace": "research", "name": "verify", "uid": "verify-1",
            "curriculum_uid": self.curriculum.uid, "phase": status.name,
            "attempt": status.attempts, "created": self.now, "deleting": False,
            "succeeded": False, "failed": False, "message": "",
        }  # fmt: skip
        made = observe.Verification(**(given | fields))
        scene = self.having(verifications={self.curriculum.uid: (made,)})
        if message is None:
            return scene
        ended = observe.Ended(0, "Completed", message, self.now)
        pod = self._pod(
            status, "", "a", uid="verify-pod", role=names.ROLE_VERIFY, running=False,
            finished=True, ended=ended, extended=(),
        )  # fmt: skip
        pods = (*self.world.pods.get(self.curriculum.uid, ()), pod)
        return scene.having(pods={self.curriculum.uid: pods})


def scene(given: observe.Curriculum | None = None, **fields: Any) -> Scene:
    """A curriculum that nothing was done for."""
    return Scene(given or curriculum(), world(**fields))


__all__ = [
    "NOW", "POLICY", "Decision", "Scene", "accelerator", "b200", "curriculum", "document", "node",
    "phase", "pool", "result", "scene", "verified", "world",
]  # fmt: skip
