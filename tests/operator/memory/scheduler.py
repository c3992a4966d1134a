"""The scheduler: a pod goes onto a node that its affinity, its taints and its devices allow.

It sees one pod at a time, as the real one does: that a gang fits is not its concern.
"""

from collections.abc import Iterable
from typing import Any

from curriculum_operator import cluster, kinds
from curriculum_operator.cluster import Raw

from .informer import Admin, View


async def reconcile(pod: Raw, view: View, to: Admin) -> None:
    """Bind one pod where it fits; otherwise it stays pending."""
    meta = pod["metadata"]
    if pod["spec"].get("nodeName") or "deletionTimestamp" in meta:
        return
    pods = [p for p in view.all(kinds.PODS) if p["spec"].get("nodeName") and not _ended(p)]
    for node in view.all(kinds.NODES):
        if fits(pod, node, pods):
            try:
                await to.bind(meta["namespace"], meta["name"], node["metadata"]["name"])
            except (cluster.Conflict, cluster.NotFound):
                return
            # Seen at once: the next pod must find the devices taken.
            pod["spec"]["nodeName"] = node["metadata"]["name"]
            return


def fits(pod: Raw, node: Raw, placed: Iterable[Raw]) -> bool:
    """Whether the pod may run on the node, beside the pods that are placed."""
    name = node["metadata"]["name"]
    here = [other for other in placed if other["spec"]["nodeName"] == name]
    spec = pod["spec"]
    labels: dict[str, str] = node["metadata"].get("labels") or {}
    return (
        ready(node)
        and not node["spec"].get("unschedulable")
        and all(labels.get(k) == v for k, v in (spec.get("nodeSelector") or {}).items())
        and all(_tolerated(t, spec) for t in node["spec"].get("taints") or ())
        and _affine(spec.get("affinity") or {}, name, labels)
        and not any(_apart(spec.get("affinity") or {}, other) for other in here)
        and _devices_left(node, here, _devices(pod))
    )


def ready(node: Raw) -> bool:
    """Whether the node says Ready."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _ended(pod: Raw) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def _tolerated(taint: Raw, spec: Raw) -> bool:
    for one in spec.get("tolerations") or ():
        if one.get("effect") not in (None, "", taint["effect"]):
            continue
        if one.get("operator") == "Exists" and one.get("key") in (None, "", taint["key"]):
            return True
        if one.get("key") == taint["key"] and (one.get("value") or "") == taint.get("value", ""):
            return True
    return False


def _affine(affinity: Raw, name: str, labels: dict[str, str]) -> bool:
    required = affinity.get("nodeAffinity", {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if not required:
        return True
    return any(
        all(labels.get(e["key"]) in e["values"] for e in term.get("matchExpressions") or ())
        and all(name in field["values"] for field in term.get("matchFields") or ())
        for term in required["nodeSelectorTerms"]
    )


def _apart(affinity: Raw, other: Raw) -> bool:
    terms = affinity.get("podAntiAffinity", {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    labels = other["metadata"].get("labels") or {}
    return any(
        all(labels.get(k) == v for k, v in term["labelSelector"]["matchLabels"].items())
        for term in terms or ()
    )


def _devices(pod: Raw) -> dict[str, int]:
    total: dict[str, int] = {}
    for container in pod["spec"]["containers"]:
        limits: dict[str, Any] = (container.get("resources") or {}).get("limits") or {}
        for name, amount in limits.items():
            if "/" in name:
                total[name] = total.get(name, 0) + int(amount)
    return total


def _devices_left(node: Raw, here: list[Raw], wanted: dict[str, int]) -> bool:
    allocatable = node["status"].get("allocatable") or {}
    for name, amount in wanted.items():
        taken = sum(_devices(other).get(name, 0) for other in here)
        if taken + amount > int(allocatable.get(name, 0)):
            return False
    return True
