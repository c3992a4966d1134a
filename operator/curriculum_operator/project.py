"""API objects to small values, at once as they arrive: what is not read is not kept.

A projection returns None for an object that is not wanted.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from curriculum_api.estimate import measured
from curriculum_api.v1alpha1 import AcceleratorClass, RentedPool, TrainingCurriculum
from curriculum_api.v1alpha1.accelerator_class import Measurement
from curriculum_api.wire import problems
from curriculum_operator import names, observe
from curriculum_operator.fabric.profile import SUFFIX

Raw = Mapping[str, Any]

TRAIN_CONTAINER = "pytorch"
"""The name that the training-operator demands of the training container."""

VERIFY_CONTAINER = "verify"


def time(text: str) -> datetime:
    """An API time stamp, for example 2026-01-01T00:00:00Z."""
    return datetime.fromisoformat(text)


def curriculum(raw: Raw) -> observe.Curriculum:
    """A TrainingCurriculum; ValueError with one line where it cannot be read."""
    meta = raw["metadata"]
    try:
        model = TrainingCurriculum.model_validate({**raw, "status": raw.get("status") or {}})
    except ValidationError as error:
        raise ValueError(
            f'cannot read TrainingCurriculum "{meta["namespace"]}/{meta["name"]}":'
            f" {problems(error)}"
        ) from error
    return observe.Curriculum(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        resource_version=meta["resourceVersion"],
        created=time(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        spec=model.spec,
        status=model.status,
        plan_overrides=_listed(meta, names.OVERRIDE_PLAN_ANNOTATION),
    )


def accelerator_class(raw: Raw) -> observe.AcceleratorClass:
    """An AcceleratorClass; what makes no sense in its status does not make it unreadable."""
    model = AcceleratorClass.model_validate({**raw, "status": {}})
    return observe.AcceleratorClass(
        name=raw["metadata"]["name"],
        spec=model.spec,
        measurements=_decisive(raw.get("status")),
    )


def rented_pool(raw: Raw) -> observe.RentedPool:
    """A RentedPool."""
    model = RentedPool.model_validate(raw)
    return observe.RentedPool(name=raw["metadata"]["name"], spec=model.spec)


def fabric_profiles(raw: Raw) -> Mapping[str, str]:
    """The profiles in a site's ConfigMap, by name; other keys are passed over."""
    data = raw.get("data") or {}
    if not isinstance(data, Mapping) or not all(isinstance(text, str) for text in data.values()):
        raise ValueError(f'ConfigMap "{raw["metadata"].get("name", "")}": its data is no texts')
    return {key.removesuffix(SUFFIX): text for key, text in data.items() if key.endswith(SUFFIX)}


def job(raw: Raw) -> observe.Job | None:
    """A PyTorchJob of ours."""
    child = _child(raw)
    if child is None:
        return None
    annotations = raw["metadata"].get("annotations") or {}
    conditions = {c["type"]: c for c in (raw.get("status") or {}).get("conditions") or ()}
    failed = _holds(conditions, "Failed")
    succeeded = _holds(conditions, "Succeeded")
    end = conditions["Failed" if failed else "Succeeded"] if failed or succeeded else {}
    since = end.get("lastTransitionTime")
    resource, _, count = annotations.get(names.GPUS_ANNOTATION, "").rpartition("=")
    return observe.Job(
        **child,
        succeeded=succeeded,
        failed=failed,
        message=end.get("message", "") if failed else "",
        nodes=tuple(n for n in annotations.get(names.NODES_ANNOTATION, "").split(",") if n),
        gpu_resource=resource,
        gpus_per_node=int(count or 0),
        ended=time(since) if since else None,
    )


def verification(raw: Raw) -> observe.Verification | None:
    """A batch Job of ours."""
    child = _child(raw)
    if child is None:
        return None
    conditions = {c["type"]: c for c in (raw.get("status") or {}).get("conditions") or ()}
    failed = _holds(conditions, "Failed")
    return observe.Verification(
        **child,
        succeeded=_holds(conditions, "Complete"),
        failed=failed,
        message=conditions["Failed"].get("message", "") if failed else "",
    )


def pod(raw: Raw) -> observe.Pod | None:
    """A pod of ours."""
    child = _child(raw)
    if child is None:
        return None
    labels = raw["metadata"]["labels"]
    status = raw.get("status") or {}
    role = labels.get(names.ROLE_LABEL, names.ROLE_TRAIN)
    main = TRAIN_CONTAINER if role == names.ROLE_TRAIN else VERIFY_CONTAINER
    state = _state(status, main)
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    replica_type = labels.get(names.REPLICA_TYPE_LABEL, "")
    replica = f"{replica_type}-{labels.get(names.REPLICA_INDEX_LABEL, '0')}" if replica_type else ""
    finished = status.get("phase") in ("Succeeded", "Failed")
    return observe.Pod(
        **child,
        role=role,
        replica=replica,
        node=raw["spec"].get("nodeName") or "",
        running="running" in state and not finished,
        finished=finished,
        ended=ended(raw, main),
        disrupted=_holds(conditions, "DisruptionTarget"),
        trouble=trouble(raw, main),
        extended=_requested(raw),
    )


def ended(raw: Raw, container: str) -> observe.Ended | None:
    """How a pod's container ended; None while it has not."""
    terminated = _state(raw.get("status") or {}, container).get("terminated")
    if not terminated or not terminated.get("finishedAt"):
        return None
    return observe.Ended(
        exit_code=terminated.get("exitCode", 0),
        reason=terminated.get("reason") or "",
        message=terminated.get("message") or "",
        finished=time(terminated["finishedAt"]),
    )


def trouble(raw: Raw, container: str) -> str:
    """Why a pod's container does not run yet, where that will not pass by itself."""
    status = raw.get("status") or {}
    waiting = _state(status, container).get("waiting") or {}
    if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
        return f"{waiting['reason']}: {waiting.get('message') or ''}".rstrip(": ")
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason')}: {scheduled.get('message') or ''}".rstrip(": ")
    for init in status.get("initContainerStatuses") or ():
        failed = (init.get("state") or {}).get("terminated") or {}
        if failed.get("exitCode"):
            return f"init container {init['name']} ended with exit code {failed['exitCode']}"
    return ""


def occupant(raw: Raw) -> observe.Occupant | None:
    """Anybody else's pod that holds extended resources; a terminating one still holds them."""
    labels = raw["metadata"].get("labels") or {}
    node = raw["spec"].get("nodeName")
    if names.CURRICULUM_UID_LABEL in labels or not node:
        return None
    extended = held(raw)
    return observe.Occupant(node=node, extended=extended) if extended else None


def held(raw: Raw) -> tuple[tuple[str, int], ...]:
    """The extended resources that a pod holds, ours or not: none once it has ended."""
    phase = (raw.get("status") or {}).get("phase")
    return () if phase in ("Succeeded", "Failed") else _requested(raw)


def node(raw: Raw) -> observe.Node:
    """A node; its time stamps that change every few seconds are left out."""
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    changed = conditions.get("Ready", {}).get("lastTransitionTime")
    return observe.Node(
        name=raw["metadata"]["name"],
        labels=dict(raw["metadata"].get("labels") or {}),
        ready=_holds(conditions, "Ready"),
        ready_changed=time(changed) if changed else None,
        unschedulable=bool(spec.get("unschedulable")),
        taints=tuple(
            observe.Taint(t["key"], t.get("value") or "", t["effect"])
            for t in spec.get("taints") or ()
        ),
        extended=_extended(status.get("allocatable") or {}),
        annotations={
            key: value
            for key, value in (raw["metadata"].get("annotations") or {}).items()
            if key.startswith(f"{names.PREFIX}/")
        },
        boot_id=(status.get("nodeInfo") or {}).get("bootID") or "",
        memory_bytes=amount((status.get("capacity") or {}).get("memory", "")),
        resource_version=raw["metadata"].get("resourceVersion", ""),
    )


def claim(raw: Raw) -> observe.Claim:
    """A PersistentVolumeClaim."""
    return observe.Claim(
        namespace=raw["metadata"]["namespace"],
        name=raw["metadata"]["name"],
        access_modes=tuple(raw["spec"].get("accessModes") or ()),
    )


def _decisive(status: Any) -> tuple[Measurement, ...]:
    """Measurements without what no plan rests on, so that it wakes nobody when that changes."""
    found = (
        seen.model_copy(update={"tokens_per_second": "0", "phases": 1})
        for seen in measured.read(status)
    )
    return tuple(sorted(found, key=lambda seen: (seen.model, seen.precision)))


def _listed(meta: Raw, annotation: str) -> frozenset[str]:
    """The names in an annotation, with commas between."""
    text = (meta.get("annotations") or {}).get(annotation, "")
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _child(raw: Raw) -> dict[str, Any] | None:
    meta = raw["metadata"]
    labels = meta.get("labels") or {}
    attempt = labels.get(names.ATTEMPT_LABEL, "")
    if names.CURRICULUM_UID_LABEL not in labels or not attempt.isdecimal():
        return None
    return {
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
        "curriculum_uid": labels[names.CURRICULUM_UID_LABEL],
        "phase": labels.get(names.PHASE_LABEL, ""),
        "attempt": int(attempt),
        "created": time(meta["creationTimestamp"]),
        "deleting": "deletionTimestamp" in meta,
    }


def _holds(conditions: Mapping[str, Raw], kind: str) -> bool:
    return conditions.get(kind, {}).get("status") == "True"


def _state(status: Raw, container: str) -> Raw:
    for one in status.get("containerStatuses") or ():
        if one["name"] == container:
            state: Raw = one.get("state") or {}
            return state
    return {}


def _requested(raw: Raw) -> tuple[tuple[str, int], ...]:
    total: dict[str, int] = {}
    for container in raw["spec"].get("containers") or ():
        limits = (container.get("resources") or {}).get("limits") or {}
        for name, count in _extended(limits):
            total[name] = total.get(name, 0) + count
    return tuple(sorted(total.items()))


def amount(quantity: str) -> int:
    """A whole quantity as Kubernetes writes it, for example 125506464Ki or 4; else 0."""
    number = quantity.rstrip("KMGTPik")
    unit = quantity.removeprefix(number)
    return int(number) * _UNITS[unit] if number.isdecimal() and unit in _UNITS else 0


_UNITS = {"": 1} | {
    prefix.replace("K", "k") if base == 1000 else f"{prefix}i": base**power
    for base in (1000, 1024)
    for power, prefix in enumerate("KMGTP", 1)
}


def _extended(resources: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    # Extended resources are the ones with a domain; their amounts are whole numbers.
    return tuple(
        sorted(
            (name, int(amount))
            for name, amount in resources.items()
            if "/" in name and "kubernetes.io/" not in name and str(amount).isdecimal()
        )
    )
