"""The Job that verifies an attempt's checkpoint, on a node that is already owned."""

from curriculum_api import run as contract
from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.wire import Outcome
from curriculum_operator import check, names, observe, project
from curriculum_operator.build import meta, pod

FINAL = (Outcome.CHECKPOINT_ERROR, Outcome.DATA_ERROR, Outcome.USER_ERROR)
"""Verdicts that another look would not change."""


def verification(
    curriculum: observe.Curriculum, phase: Phase, world: observe.World, *, attempt: int
) -> meta.Object:
    """A CPU-only Job: the operator itself mounts no volume.

    It is tried again where its node or its image fails it, never after a verdict.
    """
    place = check.verified_on(curriculum, phase, world)
    assert place is not None, "nothing is verified where there is no class"
    kind = world.classes[place.accelerator_class].spec
    pool = world.pools.get(place.pool) if place.pool else None
    name = names.verification_name(curriculum.name, phase.name, attempt)
    labels = names.attempt_labels(
        curriculum=curriculum.name, uid=curriculum.uid, phase=phase.name,
        attempt=attempt, role=names.ROLE_VERIFY,
    )  # fmt: skip
    config_map = names.attempt_name(curriculum.name, phase.name, attempt)
    templates = (kind.pod_template,)
    storage = pod.claims(curriculum.spec.storage)
    container = {
        "name": project.VERIFY_CONTAINER,
        "image": kind.image,
        "command": ["python3", "-m", "curriculum_trainer.verify"],
        "args": ["--run", contract.RUN_PATH],
        "env": pod.environment({"HOME": "/tmp"}, pod.template_env(templates)),
        "securityContext": pod.container_security(),
        "volumeMounts": pod.mounts(storage, templates),
    }
    codes = sorted(contract.EXIT_CODES[outcome] for outcome in FINAL)
    verdict = {
        "action": "FailJob",
        "onExitCodes": {
            "containerName": project.VERIFY_CONTAINER,
            "operator": "In",
            "values": codes,
        },
    }
    # A drained node says nothing about the checkpoint.
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    spec: meta.Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod.pod_security(),
        "affinity": pod.affinity(place.accelerator_class, kind, ()),
        "tolerations": pod.tolerations(kind.tolerations + (pool.spec.tolerations if pool else ())),
        "containers": [container],
        "volumes": pod.volumes(storage, templates, config_map=config_map),
    }
    if pool and pool.spec.node_selector:
        spec["nodeSelector"] = dict(pool.spec.node_selector)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta.metadata(
            curriculum, name=name, phase=phase.name, attempt=attempt, role=names.ROLE_VERIFY
        ),
        "spec": {
            "backoffLimit": 3,
            "podFailurePolicy": {"rules": [verdict, disrupted]},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
