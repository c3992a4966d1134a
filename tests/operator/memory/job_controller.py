"""Kubernetes' Job controller, as far as one pod at a time goes, with its pod failure policy."""

from datetime import datetime

from curriculum_operator import cluster, kinds
from curriculum_operator.cluster import Raw

from . import store
from .informer import Admin, View, owned_by
from .training_operator import owner


async def reconcile(job: Raw, view: View, to: Admin, now: datetime) -> None:
    """Bring one Job a step on. Called at every change; raises Conflict where it saw old news."""
    pods = [p for p in view.all(kinds.PODS) if owned_by(p, job["metadata"]["uid"])]
    status = job.get("status") or {}
    if any(c["type"] in ("Complete", "Failed") for c in status.get("conditions") or ()):
        return
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    succeeded = [pod for pod in pods if pod["status"].get("phase") == "Succeeded"]
    if succeeded:
        await _end(
            job, ("SuccessCriteriaMet", "Complete"), "CompletionsReached", len(failed), to, now
        )
        return
    verdict = next((code for pod in failed if (code := _code(pod)) in _final(job)), None)
    if verdict is not None:
        await _end(job, ("FailureTarget", "Failed"), "PodFailurePolicy", len(failed), to, now)
    elif len(failed) > job["spec"].get("backoffLimit", 6):
        await _end(job, ("FailureTarget", "Failed"), "BackoffLimitExceeded", len(failed), to, now)
    elif len(pods) == len(failed):
        await _make(job, len(failed), to)


async def _make(job: Raw, number: int, to: Admin) -> None:
    meta = job["metadata"]
    template = store.read(store.write(job["spec"]["template"]))
    labels = {
        **(template["metadata"].get("labels") or {}),
        "batch.kubernetes.io/job-name": meta["name"],
        "batch.kubernetes.io/controller-uid": meta["uid"],
    }
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{meta['name']}-{'abcdefgh'[number] * 5}",
            "namespace": meta["namespace"],
            "labels": labels,
            "ownerReferences": [owner(job)],
        },
        "spec": template["spec"],
    }
    try:
        await to.create(kinds.PODS, body)
    except cluster.AlreadyExists:
        return


async def _end(
    job: Raw, types: tuple[str, str], reason: str, failed: int, to: Admin, now: datetime
) -> None:
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [
        {
            "type": kind, "status": "True", "reason": reason, "message": reason,
            "lastTransitionTime": time, "lastProbeTime": time,
        }
        for kind in types
    ]  # fmt: skip
    status: Raw = {
        "conditions": conditions,
        "startTime": time,
        "failed": failed,
        "uncountedTerminatedPods": {},
    }
    if types[1] == "Complete":
        status |= {"completionTime": time, "succeeded": 1}
    await to.replace_status(kinds.JOBS, {**job, "status": status})


def _final(job: Raw) -> set[int]:
    rules = (job["spec"].get("podFailurePolicy") or {}).get("rules") or ()
    return {
        code
        for rule in rules
        if rule["action"] == "FailJob"
        for code in rule.get("onExitCodes", {}).get("values") or ()
    }


def _code(pod: Raw) -> int | None:
    for container in pod["status"].get("containerStatuses") or ():
        ended = container.get("state", {}).get("terminated")
        if ended:
            code: int = ended["exitCode"]
            return code
    return None
