"""Pods that meet, one on each node: what a PyTorchJob (kubeflow.org/v1) holds beside its name.

Phases train in such pods, and `curriculum doctor` measures in them: what they get of a node is
written once, so that what was measured in one holds in the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curriculum_api import run as contract
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.v1alpha1.pod import Toleration
from curriculum_operator import names, observe, project
from curriculum_operator.build import meta, network, pod
from curriculum_operator.fabric.rendered import Rendered


@dataclass(frozen=True, slots=True)
class Gang:
    """Where the pods are to run, and what differs from one use of them to another."""

    phase: Phase
    kind: AcceleratorClassSpec
    pool: observe.RentedPool | None
    fabric: Rendered
    pods: int
    nodes: tuple[str, ...]
    """By name, where they were picked."""

    program: tuple[str, ...]
    config_map: str
    labels: Mapping[str, str]
    told_apart_by: Sequence[str]
    """Labels that the pods of this gang share with no other's."""

    storage: Sequence[meta.Object]
    """Volumes of data and checkpoints."""

    grace_seconds: int
    progress_url: str = ""
    """Where it reports; with no address, and no token, it does not."""

    tolerations: tuple[Toleration, ...] = ()
    """Beside those of the class, the pool and the fabric."""

    @property
    def gpus(self) -> int:
        """Accelerators, and processes, of each node."""
        return self.phase.gpus_per_node or self.kind.gpus_per_node


def annotations(gang: Gang) -> dict[str, str]:
    """What the job says of its gang before it has pods."""
    return {
        **({names.NODES_ANNOTATION: ",".join(gang.nodes)} if gang.nodes else {}),
        names.GPUS_ANNOTATION: f"{gang.kind.gpu_resource}={gang.gpus}",
        names.FABRIC_ANNOTATION: gang.fabric.profile,
        names.FABRIC_DIGEST_ANNOTATION: gang.fabric.digest(),
    }


def spec(gang: Gang, *, policy: Mapping[str, object]) -> meta.Object:
    """One Master and the Workers; a gang of one node has no Worker section at all.

    The training-operator makes and deletes pods in a loop where a section has no replicas.
    """
    # A pod that ends is never run again in place: the gang could not take it back.
    replica = {"restartPolicy": "Never", "template": _template(gang)}
    replicas = {"Master": {"replicas": 1, **replica}}
    if gang.pods > 1:
        replicas["Worker"] = {"replicas": gang.pods - 1, **replica}
    return {
        "nprocPerNode": str(gang.gpus),
        # The default keeps pods, and their accelerators, after the end.
        "runPolicy": {"cleanPodPolicy": "Running", **policy},
        "pytorchReplicaSpecs": replicas,
    }


def _template(gang: Gang) -> meta.Object:
    phase, kind, pool, fabric = gang.phase, gang.kind, gang.pool, gang.fabric
    templates = (kind.pod_template, phase.pod_template)
    node_selector = dict(pool.spec.node_selector) if pool else {}
    tolerations = (
        *kind.tolerations,
        *(pool.spec.tolerations if pool else ()),
        *fabric.tolerations,
        *gang.tolerations,
    )
    shared = {"medium": "Memory", "sizeLimit": f"{fabric.shared_memory_gib}Gi"}
    made: meta.Object = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": gang.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod.pod_security(),
        "affinity": {
            **pod.affinity(phase.accelerator_class, kind, gang.nodes),
            **pod.apart({key: gang.labels[key] for key in gang.told_apart_by}),
        },
        "tolerations": pod.tolerations(tolerations),
        "containers": [_container(gang)],
        "volumes": [
            *pod.volumes(gang.storage, templates, config_map=gang.config_map),
            *network.volumes(fabric),
            {"name": "shm", "emptyDir": shared},
            *([_progress_token()] if gang.progress_url else []),
        ],
    }
    if node_selector:
        made["nodeSelector"] = node_selector
    if fabric.host_network:
        made["hostNetwork"] = True
        made["dnsPolicy"] = "ClusterFirstWithHostNet"
    added = {**kind.pod_template.labels, **phase.pod_template.labels}
    metadata: meta.Object = {"labels": {**added, **gang.labels}}
    noted = {
        **kind.pod_template.annotations,
        **phase.pod_template.annotations,
        **fabric.annotations,
    }
    if noted:
        metadata["annotations"] = noted
    return {"metadata": metadata, "spec": made}


def _container(gang: Gang) -> meta.Object:
    phase, kind, fabric = gang.phase, gang.kind, gang.fabric
    templates = (kind.pod_template, phase.pod_template)
    resources = {
        "requests": {
            **fabric.requests,
            **kind.pod_template.resources.requests,
            **phase.pod_template.resources.requests,
        },
        "limits": {
            **kind.pod_template.resources.limits,
            **phase.pod_template.resources.limits,
            **fabric.limits,
            kind.gpu_resource: str(gang.gpus),
        },
    }
    mounts = [
        *pod.mounts(gang.storage, templates),
        *network.mounts(fabric),
        {"name": "shm", "mountPath": pod.OWN_MOUNTS["shm"]},
    ]
    reporting = {}
    if gang.progress_url:
        reporting = {
            contract.SERVER_URL_ENV: gang.progress_url,
            contract.SERVER_TOKEN_ENV: f"{pod.TOKEN_DIR}/token",
        }
        mounts.append({"name": "progress-token", "mountPath": pod.TOKEN_DIR, "readOnly": True})
    environment = pod.environment(
        {"HOME": "/tmp"},
        pod.template_env((kind.pod_template,)),
        network.environment(fabric),
        {v.name: v.value for v in phase.env},
        pod.template_env((phase.pod_template,)),
        reporting,
        field_refs={contract.NODE_NAME_ENV: "spec.nodeName"},
    )
    return {
        "name": project.TRAIN_CONTAINER,
        "image": kind.image,
        "command": network.command(fabric, gang.program, environment),
        "args": ["--run", contract.RUN_PATH],
        "env": environment,
        "resources": resources,
        "securityContext": pod.container_security(lock_memory=fabric.rdma),
        "volumeMounts": mounts,
    }


def _progress_token() -> meta.Object:
    token = {
        "audience": names.PROGRESS_AUDIENCE,
        "expirationSeconds": pod.TOKEN_SECONDS,
        "path": "token",
    }
    return {"name": "progress-token", "projected": {"sources": [{"serviceAccountToken": token}]}}
