"""The only writer: a Step to API calls, always in the same order.

    status (the claim) ──▶ creates ──▶ deletes ──▶ what was measured ──▶ events
       │ 409: stale          │ 409: ours, going away, or another's
       ▼                     ▼
    drop the step          done, wait, or clash

It decides nothing. What it could not finish it hands back, to be finished before anything new is
decided: a create whose answer was lost may have happened, and deciding again would claim the next
attempt while this one's job appears.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from curriculum_api.estimate import measured
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassStatus
from curriculum_operator import cluster, kinds, label, names, observe, quarantine
from curriculum_operator.cluster import Cluster, Kind, Raw
from curriculum_operator.decision import Event
from curriculum_operator.step import Delete, Measured, Step

logger = logging.getLogger(__name__)

CREATE_ROUNDS = 3
"""How often a name may be found taken, and gone again when looked at."""

KEEP_ROUNDS = 5
"""How often a class may be found changed while what was measured on it is written."""


class End(StrEnum):
    """How the execution of a step ended."""

    DONE = "Done"
    STALE = "Stale"
    """The curriculum is not as it was when the step was decided; nothing was written."""

    GONE = "Gone"
    """The curriculum does not exist any more."""

    WAIT = "Wait"
    """An object of a wanted name is going away."""

    CLASH = "Clash"
    """An object cannot be made: its name is another's, or the API server refuses it."""

    INTERRUPTED = "Interrupted"
    """The API server did not answer; the rest may or may not have happened."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a step."""

    end: End
    newest: Raw | None = None
    """The curriculum as it was stored by the status write."""

    made: tuple[tuple[Kind, Raw], ...] = ()
    """Objects that exist now and are ours."""

    left: Step | None = None
    """What is still to be done, without the status."""

    message: str = ""
    """Why it did not end as Done, one line."""

    retry_after: float | None = None
    """Seconds that the API server asked to wait."""


async def execute(
    step: Step,
    subject: observe.Curriculum,
    cluster_: Cluster,
    *,
    check: Callable[[], None],
    now: datetime,
    write_status: bool = True,
) -> Done:
    """Write `step`. `check` is called before every write and raises where none is allowed.

    Raises:
        cluster.Refused, cluster.Unavailable: the status could not be written; nothing else was.
    """
    newest: Raw | None = None
    if write_status:
        check()
        try:
            newest = await cluster_.replace_status(kinds.CURRICULA, _status_body(subject, step))
        except cluster.Conflict as error:
            return Done(End.STALE, message=str(error))
        except cluster.NotFound as error:
            return Done(End.GONE, message=str(error))
    made: list[tuple[Kind, Raw]] = []
    left = step

    def ended(end: End, error: object = "", retry_after: float | None = None) -> Done:
        rest = None if end is End.DONE else left
        return Done(end, newest, tuple(made), rest, " ".join(str(error).split()), retry_after)

    try:
        for body in step.creates:
            check()
            raw, why = await _create(cluster_, body, subject.uid)
            if raw is None:
                return ended(End.CLASH if why else End.WAIT, why)
            made.append((kinds.of(body), raw))
            left = replace(left, creates=left.creates[1:])
        for delete in step.deletes:
            check()
            await _delete(cluster_, delete)
            left = replace(left, deletes=left.deletes[1:])
    except cluster.Unavailable as error:
        return ended(End.INTERRUPTED, error, error.retry_after)
    if step.measured is not None:
        check()
        await _keep(cluster_, step.measured)
    for event in step.events:
        check()
        await _tell(cluster_, _about(subject), subject.namespace, event, now)
    return ended(End.DONE)


async def label_node(
    cluster_: Cluster,
    node: observe.Node,
    change: label.Change,
    *,
    check: Callable[[], None],
    now: datetime,
) -> Raw:
    """Have a node say its class, and people hear of a conflict.

    Raises:
        cluster.Conflict: the node changed since it was seen.
    """
    check()
    marks = {"labels": dict(change.labels), "annotations": dict(change.annotations)}
    raw = await cluster_.patch(
        kinds.NODES, node.name, {"metadata": marks}, resource_version=node.resource_version
    )
    if change.conflict:
        check()
        event = Event("Warning", names.CLASS_CONFLICT, change.conflict)
        await _tell(cluster_, _about_node(node.name), "default", event, now)
    return raw


async def mark_node(
    cluster_: Cluster,
    raw: Raw,
    change: quarantine.Change,
    *,
    check: Callable[[], None],
    now: datetime,
) -> Raw:
    """Write a quarantine, its end, or what was measured on a node that was just read.

    Raises:
        cluster.Conflict: the node changed since it was read.
    """
    check()
    marks = {"labels": dict(change.labels), "annotations": dict(change.annotations)}
    body: Raw = {"metadata": {key: marked for key, marked in marks.items() if marked}}
    # A merge replaces the list as a whole: others' taints go along as they were read.
    there = raw.get("spec", {}).get("taints") or []
    taints = [taint for taint in there if taint["key"] != names.QUARANTINE_TAINT]
    if change.taint is not None:
        taints.append(
            {"key": names.QUARANTINE_TAINT, "value": change.taint, "effect": "NoSchedule"}
        )
    if taints != there:
        body["spec"] = {"taints": taints}
    meta = raw["metadata"]
    written = await cluster_.patch(
        kinds.NODES, meta["name"], body, resource_version=meta["resourceVersion"]
    )
    event = None
    if change.begins:
        event = Event("Warning", names.NODE_QUARANTINED, change.begins)
    elif change.ends:
        event = Event("Normal", names.QUARANTINE_ENDED, change.ends)
    if event is not None:
        check()
        await _tell(cluster_, _about_node(meta["name"]), "default", event, now)
    return written


def _about_node(name: str) -> Raw:
    """Events of what has no namespace lie in `default`; kubectl finds a node's by its name."""
    return {"apiVersion": "v1", "kind": "Node", "name": name, "uid": name}


def _status_body(subject: observe.Curriculum, step: Step) -> Raw:
    return {
        "apiVersion": kinds.CURRICULA.api_version,
        "kind": kinds.CURRICULA.kind,
        "metadata": {
            "namespace": subject.namespace,
            "name": subject.name,
            "uid": subject.uid,
            "resourceVersion": subject.resource_version,
        },
        "status": step.status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


async def _create(cluster_: Cluster, body: Raw, owner: str) -> tuple[Raw | None, str]:
    """Make it, or find it made: the object, or None and why not; empty where it is going away."""
    kind = kinds.of(body)
    meta = body["metadata"]
    name, namespace = meta["name"], meta["namespace"]
    what = f'{kind.kind} "{namespace}/{name}"'
    for _ in range(CREATE_ROUNDS):
        try:
            return await cluster_.create(kind, body), ""
        except cluster.AlreadyExists:
            pass
        except (cluster.Refused, cluster.NotFound) as error:
            return None, f"cannot create {what}: {error}"
        try:
            there = await cluster_.get(kind, name, namespace)
        except cluster.NotFound:
            continue
        if _same(there, body, owner):
            return there, ""
        if "deletionTimestamp" not in there["metadata"]:
            return None, f"cannot create {what}: an object of that name exists and is not its own"
        return None, ""
    return None, ""


def _same(there: Raw, body: Raw, owner: str) -> bool:
    """Whether the object that is there is the one that was to be made."""
    owners = {reference["uid"] for reference in there["metadata"].get("ownerReferences") or ()}
    labels = there["metadata"].get("labels") or {}
    wanted = body["metadata"]["labels"]
    attempt = (names.PHASE_LABEL, names.ATTEMPT_LABEL)
    return owner in owners and all(labels.get(key) == wanted[key] for key in attempt)


async def _delete(cluster_: Cluster, delete: Delete) -> None:
    try:
        await cluster_.delete(
            delete.kind,
            delete.name,
            delete.namespace,
            uid=delete.uid,
            grace_seconds=delete.grace_seconds,
        )
    except (cluster.NotFound, cluster.Conflict):
        # Gone, or another object of that name: what was meant is not there.
        return
    except cluster.Refused as error:
        logger.error('cannot delete %s "%s": %s', delete.kind.kind, delete.name, error)


async def _keep(cluster_: Cluster, seen: Measured) -> None:
    """Keep what was measured in the class's status. Best effort: the next phase measures again.

    There, because it then lives as long as the class, every plan that reads the class has it, and
    no further kind is watched.
    """
    name = seen.accelerator_class
    try:
        for _ in range(KEEP_ROUNDS):
            there = await cluster_.get(kinds.CLASSES, name)
            known = measured.merged(measured.read(there.get("status")), seen.measurement)
            status = AcceleratorClassStatus(measurements=known)
            body = {**there, "status": status.model_dump(mode="json", by_alias=True)}
            try:
                await cluster_.replace_status(kinds.CLASSES, body)
            except cluster.Conflict:
                continue
            return
    except cluster.ClusterError as error:
        logger.warning('what was measured on "%s" was not kept: %s', name, error)


def _about(subject: observe.Curriculum) -> Raw:
    return {
        "apiVersion": kinds.CURRICULA.api_version,
        "kind": kinds.CURRICULA.kind,
        "namespace": subject.namespace,
        "name": subject.name,
        "uid": subject.uid,
    }


async def _tell(cluster_: Cluster, about: Raw, namespace: str, event: Event, now: datetime) -> None:
    """Post an event, or count up the same one. Best effort: an event never fails a step."""
    text = "\n".join((about["uid"], event.type, event.reason, event.message))
    name = f"{about['name']}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    body: Raw = {
        "apiVersion": kinds.EVENTS.api_version,
        "kind": kinds.EVENTS.kind,
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": about,
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:1024],
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
        "reportingInstance": names.FIELD_MANAGER,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
    try:
        try:
            await cluster_.create(kinds.EVENTS, body)
        except cluster.AlreadyExists:
            there = await cluster_.get(kinds.EVENTS, name, namespace)
            count = there.get("count", 1) + 1
            again = {**there, "count": count, "lastTimestamp": time}
            await cluster_.replace(kinds.EVENTS, again)
    except cluster.ClusterError as error:
        logger.info('event "%s" was not posted: %s', event.reason, error)
