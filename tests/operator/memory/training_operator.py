"""The training-operator (v1): a PyTorchJob becomes pods, and fails with the first of them.

What it does that matters to its users is kept: it makes a lone pod again that was deleted, it
does not wait for a whole gang, and `cleanPodPolicy: Running` deletes only what still runs.
"""

from datetime import datetime

from curriculum_operator import cluster, kinds, names
from curriculum_operator.cluster import Raw

from . import store
from .informer import Admin, View, owned_by


async def reconcile(job: Raw, view: View, to: Admin, now: datetime) -> None:
    """Bring one job a step on. Called at every change; raises Conflict where it saw old news."""
    meta = job["metadata"]
    pods = [p for p in view.all(kinds.PODS) if owned_by(p, meta["uid"])]
    if _holds(job, "Succeeded") or _holds(job, "Failed"):
        await _clean(pods, to)
        return
    there = {_replica(pod): pod for pod in pods}
    for role, spec in job["spec"]["pytorchReplicaSpecs"].items():
        for index in range(spec.get("replicas", 1)):
            if f"{role.lower()}-{index}" not in there:
                await _make(job, role.lower(), index, spec, to)
    phases = {name: pod["status"].get("phase") for name, pod in there.items()}
    failed = sorted(name for name, phase in phases.items() if phase == "Failed")
    if failed:
        message = f"PyTorchJob {meta['name']} is failed because {len(failed)} replica(s) failed."
        await _say(job, "Failed", "PyTorchJobFailed", message, to, now)
    elif phases.get("master-0") == "Succeeded":
        await _say(job, "Succeeded", "PyTorchJobSucceeded", "", to, now)
    elif phases.get("master-0") == "Running" and not _holds(job, "Running"):
        await _say(job, "Running", "PyTorchJobRunning", "", to, now)


async def _make(job: Raw, role: str, index: int, spec: Raw, to: Admin) -> None:
    meta = job["metadata"]
    name = f"{meta['name']}-{role}-{index}"
    assert len(name) <= 63, f'a Service is named like the pod "{name}": the job never comes up'
    template = store.read(store.write(spec["template"]))
    labels = {
        **(template.get("metadata", {}).get("labels") or {}),
        "training.kubeflow.org/job-name": meta["name"],
        "training.kubeflow.org/operator-name": "pytorchjob-controller",
        names.REPLICA_TYPE_LABEL: role,
        names.REPLICA_INDEX_LABEL: str(index),
    }
    if role == "master":
        labels["training.kubeflow.org/job-role"] = "master"
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **template.get("metadata", {}),
            "name": name,
            "namespace": meta["namespace"],
            "labels": labels,
            "ownerReferences": [owner(job)],
        },
        "spec": {
            "serviceAccountName": "default",  # as the admission of service accounts does
            **template["spec"],
            "restartPolicy": spec.get("restartPolicy", "Never"),
        },
    }
    try:
        await to.create(kinds.PODS, body)
    except cluster.AlreadyExists:
        return  # Its own, not yet seen; or one that is going away.


async def _clean(pods: list[Raw], to: Admin) -> None:
    for pod in pods:
        runs = pod["status"].get("phase") in ("Pending", "Running")
        if runs and "deletionTimestamp" not in pod["metadata"]:
            await delete(kinds.PODS, pod, to)


async def _say(job: Raw, kind: str, reason: str, message: str, to: Admin, now: datetime) -> None:
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    status = store.read(store.write(job.get("status") or {}))
    conditions = [c for c in status.get("conditions") or () if c["type"] != kind]
    if kind != "Running":
        for condition in conditions:
            if condition["type"] == "Running":
                condition["status"] = "False"
    conditions.append(
        {
            "type": kind, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": time, "lastUpdateTime": time,
        }
    )  # fmt: skip
    status |= {"conditions": conditions, "replicaStatuses": {}}
    await to.replace_status(kinds.PYTORCHJOBS, {**job, "status": status})


async def delete(kind: kinds.Kind, raw: Raw, to: Admin, grace: int | None = None) -> None:
    """Delete this very object; one that is gone is as good."""
    meta = raw["metadata"]
    try:
        await to.delete(
            kind, meta["name"], meta.get("namespace"), uid=meta["uid"], grace_seconds=grace
        )
    except (cluster.NotFound, cluster.Conflict):
        return


def owner(raw: Raw) -> Raw:
    """A reference to the controller `raw`."""
    return {
        "apiVersion": raw["apiVersion"],
        "kind": raw["kind"],
        "name": raw["metadata"]["name"],
        "uid": raw["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _replica(pod: Raw) -> str:
    labels = pod["metadata"]["labels"]
    return f"{labels[names.REPLICA_TYPE_LABEL]}-{labels[names.REPLICA_INDEX_LABEL]}"


def _holds(raw: Raw, kind: str) -> bool:
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)
