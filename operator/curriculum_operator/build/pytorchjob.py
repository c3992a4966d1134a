"""The PyTorchJob of an attempt (kubeflow.org/v1): one of the backends."""

from collections.abc import Mapping

from curriculum_api import run as contract
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_operator import names, observe, project
from curriculum_operator.build import grace, meta, network, pod, run
from curriculum_operator.fabric import rendered

TRAIN = ("python3", "-m", "curriculum_trainer")


def pytorchjob(
    curriculum: observe.Curriculum,
    phase: Phase,
    kind: AcceleratorClassSpec,
    pool: observe.RentedPool | None,
    *,
    attempt: int,
    nodes: tuple[str, ...],
    progress_url: str,
    site: Mapping[str, str],
) -> meta.Object:
    """One Master and the Workers; a phase of one node has no Worker section at all.

    The training-operator makes and deletes pods in a loop where a section has no replicas.
    """
    name = names.attempt_name(curriculum.name, phase.name, attempt)
    gpus = phase.gpus_per_node or kind.gpus_per_node
    fabric = rendered.render(kind, pool.spec if pool else None, phase, site=site)
    template = _pod_template(
        curriculum, phase, kind, pool,
        attempt=attempt, nodes=nodes, fabric=fabric, progress_url=progress_url,
    )  # fmt: skip
    # A pod that ends is never run again in place: the gang could not take it back.
    replica = {"restartPolicy": "Never", "template": template}
    replicas = {"Master": {"replicas": 1, **replica}}
    if phase.nodes > 1:
        replicas["Worker"] = {"replicas": phase.nodes - 1, **replica}
    metadata = meta.metadata(
        curriculum, name=name, phase=phase.name, attempt=attempt, role=names.ROLE_TRAIN
    )
    metadata["annotations"] = {
        **({names.NODES_ANNOTATION: ",".join(nodes)} if nodes else {}),
        names.GPUS_ANNOTATION: f"{kind.gpu_resource}={gpus}",
        names.FABRIC_ANNOTATION: fabric.profile,
        names.FABRIC_DIGEST_ANNOTATION: fabric.digest(),
    }
    if curriculum.spec.queue_name:
        metadata["labels"][names.QUEUE_LABEL] = curriculum.spec.queue_name
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": metadata,
        "spec": {
            "nprocPerNode": str(gpus),
            # The default keeps pods, and their accelerators, after the end.
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": replicas,
        },
    }


def _pod_template(
    curriculum: observe.Curriculum,
    phase: Phase,
    kind: AcceleratorClassSpec,
    pool: observe.RentedPool | None,
    *,
    attempt: int,
    nodes: tuple[str, ...],
    fabric: rendered.Rendered,
    progress_url: str,
) -> meta.Object:
    name = names.attempt_name(curriculum.name, phase.name, attempt)
    templates = (kind.pod_template, phase.pod_template)
    labels = names.attempt_labels(
        curriculum=curriculum.name, uid=curriculum.uid, phase=phase.name,
        attempt=attempt, role=names.ROLE_TRAIN,
    )  # fmt: skip
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
            kind.gpu_resource: str(phase.gpus_per_node or kind.gpus_per_node),
        },
    }
    reporting = {
        contract.SERVER_URL_ENV: run.progress_url(progress_url, curriculum, phase.name, attempt),
        contract.SERVER_TOKEN_ENV: f"{pod.TOKEN_DIR}/token",
    }
    environment = pod.environment(
        {"HOME": "/tmp"},
        pod.template_env((kind.pod_template,)),
        network.environment(fabric),
        {v.name: v.value for v in phase.env},
        pod.template_env((phase.pod_template,)),
        reporting,
        field_refs={contract.NODE_NAME_ENV: "spec.nodeName"},
    )
    container = {
        "name": project.TRAIN_CONTAINER,
        "image": kind.image,
        "command": network.command(fabric, TRAIN, environment),
        "args": ["--run", contract.RUN_PATH],
        "env": environment,
        "resources": resources,
        "securityContext": pod.container_security(lock_memory=fabric.rdma),
        "volumeMounts": [
            *pod.mounts(templates),
            *network.mounts(fabric),
            {"name": "shm", "mountPath": pod.OWN_MOUNTS["shm"]},
            {"name": "progress-token", "mountPath": pod.TOKEN_DIR, "readOnly": True},
        ],
    }
    node_selector = dict(pool.spec.node_selector) if pool else {}
    spec: meta.Object = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace.seconds(curriculum.spec.model, kind),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod.pod_security(),
        "affinity": {
            **pod.affinity(phase.accelerator_class, kind, nodes),
            **pod.apart({k: labels[k] for k in _GANG_LABELS}),
        },
        "tolerations": pod.tolerations(
            (*kind.tolerations, *(pool.spec.tolerations if pool else ()), *fabric.tolerations)
        ),
        "containers": [container],
        "volumes": [
            *pod.volumes(curriculum, templates, config_map=name),
            *network.volumes(fabric),
            {
                "name": "shm",
                "emptyDir": {"medium": "Memory", "sizeLimit": f"{fabric.shared_memory_gib}Gi"},
            },
            _progress_token(),
        ],
    }
    if node_selector:
        spec["nodeSelector"] = node_selector
    if fabric.host_network:
        spec["hostNetwork"] = True
        spec["dnsPolicy"] = "ClusterFirstWithHostNet"
    annotations = {
        **kind.pod_template.annotations,
        **phase.pod_template.annotations,
        **fabric.annotations,
    }
    added = {**kind.pod_template.labels, **phase.pod_template.labels}
    metadata: meta.Object = {"labels": {**added, **labels}}
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": spec}


_GANG_LABELS = (
    names.CURRICULUM_UID_LABEL,
    names.PHASE_LABEL,
    names.ATTEMPT_LABEL,
    names.ROLE_LABEL,
)


def _progress_token() -> meta.Object:
    token = {
        "audience": names.PROGRESS_AUDIENCE,
        "expirationSeconds": pod.TOKEN_SECONDS,
        "path": "token",
    }
    return {"name": "progress-token", "projected": {"sources": [{"serviceAccountToken": token}]}}
