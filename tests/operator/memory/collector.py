"""Kubernetes' garbage collector: what only owners had that are gone goes too, in the background."""

from curriculum_operator import cluster, kinds
from curriculum_operator.cluster import Raw

from .informer import Admin, View
from .training_operator import delete

OWNED = (kinds.CONFIGMAPS, kinds.PYTORCHJOBS, kinds.JOBS, kinds.PODS)


async def collect(view: View, to: Admin) -> None:
    """Delete every object whose owners are all gone. It looks itself, never trusts its watch."""
    gone: dict[str, bool] = {}
    for kind in OWNED:
        for raw in view.all(kind):
            owners = raw["metadata"].get("ownerReferences") or ()
            if not owners or "deletionTimestamp" in raw["metadata"]:
                continue
            for owner in owners:
                if owner["uid"] not in gone:
                    gone[owner["uid"]] = await _gone(owner, raw, view, to)
            if all(gone[owner["uid"]] for owner in owners):
                await delete(kind, raw, to)


async def _gone(owner: Raw, raw: Raw, view: View, to: Admin) -> bool:
    kind = kinds.named(owner["kind"])
    namespace = raw["metadata"]["namespace"] if kind.namespaced else ""
    seen = view.find(kind, owner["name"], namespace)
    if seen is not None and seen["metadata"]["uid"] == owner["uid"]:
        return False
    try:
        there = await to.get(kind, owner["name"], namespace or None)
    except cluster.NotFound:
        return True
    return bool(there["metadata"]["uid"] != owner["uid"])
