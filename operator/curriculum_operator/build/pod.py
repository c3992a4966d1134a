"""The pods of an attempt: what they mount, where they may run, what they may do."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from curriculum_api import run
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Storage
from curriculum_api.v1alpha1.pod import PodTemplate, Toleration, Volume
from curriculum_operator import names
from curriculum_operator.build import meta

USER = 65532
"""The image's user; checkpoints are written under it."""

TOKEN_DIR = "/var/run/secrets/curriculum.dev"
TOKEN_SECONDS = 3600

OWN_MOUNTS = {
    "run": str(PurePosixPath(run.RUN_PATH).parent),
    "data": run.DATA_DIR,
    "checkpoints": run.CHECKPOINTS_DIR,
    "tmp": "/tmp",
    "shm": "/dev/shm",
    "progress-token": TOKEN_DIR,
}
"""The contract's volumes and where a container sees them: no template may name either again."""


def claims(storage: Storage) -> list[meta.Object]:
    """The volumes of a curriculum's data and checkpoints."""
    data = {"claimName": storage.data.claim_name, "readOnly": True}
    return [
        {"name": "data", "persistentVolumeClaim": data},
        checkpoints(storage.checkpoints.claim_name),
    ]


def checkpoints(claim_name: str) -> meta.Object:
    """The volume of checkpoints."""
    return {"name": "checkpoints", "persistentVolumeClaim": {"claimName": claim_name}}


def volumes(
    storage: Sequence[meta.Object], templates: Sequence[PodTemplate], *, config_map: str
) -> list[meta.Object]:
    """The contract's volumes, then what the templates add."""
    return [
        {"name": "run", "configMap": {"name": config_map}},
        *storage,
        {"name": "tmp", "emptyDir": {}},
        *(_volume(volume) for template in templates for volume in template.volumes),
    ]


def mounts(storage: Sequence[meta.Object], templates: Sequence[PodTemplate]) -> list[meta.Object]:
    """Where the main container sees the volumes."""
    return [
        {"name": "run", "mountPath": OWN_MOUNTS["run"], "readOnly": True},
        *(_mount(volume) for volume in storage),
        {"name": "tmp", "mountPath": OWN_MOUNTS["tmp"]},
        *(
            mount.model_dump(by_alias=True, exclude_none=True)
            for template in templates
            for mount in template.mounts
        ),
    ]


def environment(
    *layers: dict[str, str], field_refs: Mapping[str, str] | None = None
) -> list[meta.Object]:
    """One list of variables; where two layers name the same, the later one holds.

    `field_refs` are fields of the pod that no layer sets.
    """
    merged: dict[str, str] = {}
    for layer in layers:
        merged |= layer
    refs = field_refs or {}
    return [
        *({"name": name, "value": value} for name, value in merged.items() if name not in refs),
        *(
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in refs.items()
        ),
    ]


def template_env(templates: Sequence[PodTemplate]) -> dict[str, str]:
    """The variables that the templates add."""
    return {v.name: v.value for template in templates for v in template.env}


def tolerations(of: Sequence[Toleration]) -> list[meta.Object]:
    """Tolerations as the API writes them."""
    return [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in of]


def affinity(kind_name: str, kind: AcceleratorClassSpec, nodes: Sequence[str]) -> meta.Object:
    """Nodes of the class and its CPU architecture; by name where admission picked them."""
    expressions = [
        {"key": names.CLASS_LABEL, "operator": "In", "values": [kind_name]},
        {"key": names.ARCH_LABEL, "operator": "In", "values": [kind.cpu_architecture]},
    ]
    terms: list[meta.Object] = [{"matchExpressions": expressions}]
    if nodes:
        # A term may name one node by its field; terms are alternatives.
        terms = [
            {
                "matchExpressions": expressions,
                "matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}],
            }
            for node in nodes
        ]
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }
    }


def apart(labels: dict[str, str]) -> meta.Object:
    """One pod of the attempt per node, however many accelerators a node has left."""
    return {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": labels}, "topologyKey": names.HOSTNAME_LABEL}
            ]
        }
    }


def pod_security() -> meta.Object:
    """What Pod Security's level `restricted` asks of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, lock_memory: bool = False) -> meta.Object:
    """What `restricted` asks of a container; RDMA must lock memory, which goes beyond it."""
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if lock_memory:
        capabilities["add"] = ["IPC_LOCK"]
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": capabilities,
    }


def _volume(volume: Volume) -> meta.Object:
    if volume.claim_name is None:
        return {"name": volume.name, "emptyDir": {}}
    claim = {"claimName": volume.claim_name, "readOnly": volume.read_only}
    return {"name": volume.name, "persistentVolumeClaim": claim}


def _mount(volume: meta.Object) -> meta.Object:
    read_only = volume["persistentVolumeClaim"].get("readOnly", False)
    mount = {"name": volume["name"], "mountPath": OWN_MOUNTS[volume["name"]]}
    return {**mount, "readOnly": True} if read_only else mount
