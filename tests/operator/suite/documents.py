"""The objects that plays begin with: two Sparks, one B200 node, their classes, and curricula."""

from typing import Any

from curriculum_operator import kinds
from curriculum_operator.clock import Clock
from curriculum_operator.cluster import Raw
from curriculum_operator.kinds import Kind

from ..memory.datacentre import node

NAMESPACE = "research"
SPARK, B200 = "gb10-sm121", "b200-sm100"
SPARKS = ("spark-1", "spark-2")
RENTED = "b200-1"
POOL = "b200-cloud"


def nodes(clock: Clock) -> list[Raw]:
    """Two Sparks and a rented node of eight B200, as GPU feature discovery labels them."""
    capability = ("nvidia.com/gpu.compute.major", "nvidia.com/gpu.compute.minor")
    spark = dict(zip(capability, ("12", "1"), strict=True))
    b200 = {**dict(zip(capability, ("10", "0"), strict=True)), "example.com/pool": "b200"}
    taint = {"key": "example.com/rented", "value": "true", "effect": "NoSchedule"}
    return [
        *(node(clock, name, gpus=1, arch="arm64", labels=spark) for name in SPARKS),
        node(clock, RENTED, gpus=8, arch="amd64", taints=[taint], labels=b200),
    ]


def classes() -> list[Raw]:
    """The two classes."""
    return [
        _cluster_scoped(
            kinds.CLASSES,
            SPARK,
            match=[{"computeCapability": "12.1"}],
            cpuArchitecture="arm64",
            gpusPerNode=1,
            memoryGiB=119,
            unifiedMemory=True,
            trains=["FP32", "BF16", "FP8"],
            image="curriculum-trainer:0.1.0",
            fabric={"profile": "gb10-switch", "hostNetwork": True},
        ),
        _cluster_scoped(
            kinds.CLASSES,
            B200,
            match=[{"computeCapability": "10.0"}],
            cpuArchitecture="amd64",
            gpusPerNode=8,
            memoryGiB=180,
            trains=["FP32", "BF16", "FP8", "MXFP8", "NVFP4"],
            image="curriculum-trainer:0.1.0",
            fabric={"profile": "infiniband"},
        ),
    ]


def pool() -> Raw:
    """The rented node's pool."""
    return _cluster_scoped(
        kinds.POOLS,
        POOL,
        acceleratorClass=B200,
        provider="Static",
        nodeSelector={"example.com/pool": "b200"},
        tolerations=[{"key": "example.com/rented", "operator": "Exists"}],
        pricePerGPUHour="4.49",
        maxNodes=1,
    )


def claims() -> list[Raw]:
    """The volumes that every curriculum names."""
    return [claim("corpus", "ReadOnlyMany"), claim("checkpoints", "ReadWriteMany")]


def claim(name: str, mode: str) -> Raw:
    """A claim of one access mode."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "accessModes": [mode],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "",
        },
    }


def phase(name: str, *, rented: bool = False, nodes: int | None = None, **fields: Any) -> Raw:
    """A phase on both Sparks, or on the rented node."""
    where: Raw = {"acceleratorClass": SPARK, "nodes": nodes or 2}
    if rented:
        where = {
            "acceleratorClass": B200,
            "pool": POOL,
            "nodes": nodes or 1,
            "strategy": "ZeRO3",
            "sequenceParallel": 8,
        }
    return {
        "name": name,
        **where,
        "tokens": 60000,
        "contextLength": 256,
        "optimizer": {"learningRate": "3e-4"},
        "data": [{"source": "code"}],
        **fields,
    }


FOUR = (
    phase("pretrain"),
    phase("quality", objective="FineTune"),
    phase("long", rented=True, objective="ContextExtension", contextLength=1024),
    phase("align", rented=True, objective="DPO", contextLength=2048),
)


def curriculum(name: str = "slm", *phases: Raw, **spec: Any) -> Raw:
    """A curriculum; of four phases where none are given."""
    return {
        "apiVersion": kinds.CURRICULA.api_version,
        "kind": kinds.CURRICULA.kind,
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"argocd.argoproj.io/instance": "models", "team": "research"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        "spec": {
            "model": {"preset": "tiny-4m"},
            "tokenizer": {"path": "tokenizer"},
            "storage": {
                "data": {"claimName": "corpus"},
                "checkpoints": {"claimName": "checkpoints"},
            },
            **spec,
            "phases": list(phases or FOUR),
        },
    }


def _cluster_scoped(kind: Kind, name: str, **spec: Any) -> Raw:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": name},
        "spec": spec,
    }
