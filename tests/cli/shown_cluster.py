"""A cluster as `curriculum doctor` is shown it: three sound Sparks, and parts to change."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any

from curriculum_api.check import Check
from curriculum_api.classes import CLASSES
from curriculum_cli import doctor_cluster
from curriculum_operator import kinds, names
from curriculum_operator.cluster import ClusterError, Kind, NotFound, Raw

SPARK = "gb10-sm121"
QUEUING = "integrations: {frameworks: [batch/job, kubeflow.org/pytorchjob]}"

Objects = dict[Kind, list[Raw] | ClusterError]


class ShownCluster:
    """A cluster that shows what it was given, or answers with an error."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def __aenter__(self) -> "ShownCluster":
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def list(self, kind: Kind, *, field_selector: str = "") -> tuple[list[Raw], str]:
        found = self._objects.get(kind, NotFound(f"no {kind.plural} here"))
        if isinstance(found, ClusterError):
            raise found
        name = field_selector.removeprefix("metadata.name=")
        return [raw for raw in found if name in ("", raw["metadata"]["name"])], "1"

    async def get(self, kind: Kind, name: str, namespace: str) -> Raw:
        found, _ = await self.list(kind)
        for raw in found:
            if (raw["metadata"]["namespace"], raw["metadata"]["name"]) == (namespace, name):
                return raw
        raise NotFound(name)


def workload(name: str, image: str, labels: Mapping[str, str] = {}, *, ready: int = 1) -> Raw:
    return {
        "metadata": {"name": name, "namespace": "system", "labels": dict(labels)},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"image": image}]}}},
        "status": {"readyReplicas": ready},
    }


def daemon(name: str, image: str, *, ready: int, wanted: int) -> Raw:
    raw = workload(name, image)
    return {**raw, "status": {"desiredNumberScheduled": wanted, "numberReady": ready}}


def record(*, matmul: float = 91.0, hours: float = 1.0, **links: float) -> str:
    at = (datetime.now(UTC) - timedelta(hours=hours)).isoformat(timespec="seconds")
    pairs = {
        other.replace("_", "-"): {"at": at, "link": link, "latency": 0.01, "loss": 0.0}
        for other, link in links.items()
    }
    figures = {"matmul": matmul, "memory": 110.0}
    return json.dumps(
        {"at": at, "boot": "b", "precision": "BF16", "figures": figures, "pairs": pairs}
    )


def spark(name: str, **fields: Any) -> Raw:
    """A Spark as a cluster shows it; `kept` is its preflight record."""
    labels = {
        names.GPU_MAJOR_LABEL: "12",
        names.GPU_MINOR_LABEL: "1",
        names.ARCH_LABEL: "arm64",
        names.CLASS_LABEL: SPARK,
        "nvidia.com/cuda.driver-version.full": "580.142",
    }
    resources = {"nvidia.com/gpu": "1", "memory": "125506464Ki", "cpu": "20"}
    kept = fields.get("kept")
    annotations = {names.PREFLIGHT_ANNOTATION: kept} if kept else {}
    return {
        "metadata": {
            "name": name,
            "labels": labels | fields.get("labels", {}),
            "annotations": annotations | fields.get("annotations", {}),
        },
        "spec": {"taints": fields.get("taints", []), **fields.get("spec", {})},
        "status": {
            "capacity": resources | fields.get("capacity", {}),
            "allocatable": resources | fields.get("allocatable", {}),
            "nodeInfo": {"kernelVersion": fields.get("kernel", "6.17.0-1030-nvidia")},
            "conditions": [
                {
                    "type": "Ready",
                    "status": fields.get("ready", "True"),
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
        },
    }


def accelerator(**spec: Any) -> Raw:
    return {
        "metadata": {"name": SPARK},
        "spec": {"image": "trainer", **CLASSES[SPARK], **spec},
        "status": {},
    }


def sound() -> Objects:
    """Three Sparks, the operator, what it needs, and Kueue."""
    version = metadata.version("curriculum-operator")
    links = {"spark-1": {"spark_2": 21.0, "spark_3": 22.0}, "spark-2": {"spark_1": 21.0},
             "spark-3": {"spark_1": 22.0}}  # fmt: skip
    preflight = {"floors": {"linkGBps": "14", "matmulTFLOPS": "64"}}
    return {
        kinds.NODES: [spark(name, kept=record(**links[name])) for name in links],
        kinds.CLASSES: [accelerator(preflight=preflight)],
        kinds.POOLS: [],
        kinds.CURRICULA: [],
        kinds.PYTORCHJOBS: [],
        kinds.DEPLOYMENTS: [
            workload(
                "curriculum-operator",
                "curriculum-operator:1",
                {
                    "app.kubernetes.io/name": "curriculum-operator",
                    "app.kubernetes.io/version": version,
                },
            ),
            workload("training-operator", "kubeflow/training-operator:v1.9.4"),
        ],
        kinds.DAEMONSETS: [
            daemon("nvidia-device-plugin", "nvcr.io/nvidia/k8s-device-plugin:v0.18.0",
                   ready=3, wanted=3),
        ],
        kinds.ADMISSION_POLICIES: [{"metadata": {"name": "curriculum-operator-nodes"}}],
        kinds.CONFIGMAPS: [kueue(QUEUING)],
    }  # fmt: skip


def kueue(configuration: str) -> Raw:
    meta = {"name": "kueue-manager-config", "namespace": "kueue-system"}
    return {"metadata": meta, "data": {"controller_manager_config.yaml": configuration}}


def curriculum(*, queue: str) -> Raw:
    phase = {
        "name": "pretrain", "acceleratorClass": SPARK, "nodes": 2, "tokens": 65536,
        "contextLength": 1024, "precision": "BF16", "optimizer": {"learningRate": "1e-4"},
        "data": [{"source": "web"}],
    }  # fmt: skip
    return {
        "apiVersion": "curriculum.dev/v1alpha1",
        "kind": "TrainingCurriculum",
        "metadata": {
            "namespace": "research", "name": "slm", "uid": "u", "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "model": {"preset": "tiny"}, "tokenizer": {"path": "tokenizer"},
            **({"queueName": queue} if queue else {}),
            "storage": {"data": {"claimName": "d"}, "checkpoints": {"claimName": "c"}},
            "phases": [phase],
        },
        "status": {
            "conditions": [
                {
                    "type": "FabricHealthy", "status": "False", "reason": "FabricFailed",
                    "message": "fell to sockets: no /dev/infiniband in the pod",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ]
        },
    }  # fmt: skip


def rows(objects: Objects, **asked: Any) -> list[Check]:
    async def connect() -> Any:
        return ShownCluster(objects)

    return doctor_cluster.rows(connect=connect, **asked)


def found(objects: Objects, name: str, **asked: Any) -> Check:
    """The one row of this name."""
    (one,) = [row for row in rows(objects, **asked) if row.name == name]
    return one
