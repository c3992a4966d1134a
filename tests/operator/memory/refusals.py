"""What an API server refuses, and what it fills in, by the kind of the object. Pure.

It covers the operator's own kinds in full (the CRDs' schemas and CEL rules), and of the others
what an operator can get wrong: names, labels, owners, references, the training-operator's webhook.
"""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from curriculum_operator import kinds
from curriculum_operator.cluster import Kind, Raw, Refused

from ...api.verdict import verdict, with_defaults

CRDS = Path(__file__).parents[3] / "crds"

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_ENV = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")

WITH_STATUS = frozenset(
    {"AcceleratorClass", "TrainingCurriculum", "PyTorchJob", "Job", "Pod", "Node"}
)
"""Kinds whose status only the status subresource writes."""

WITH_GENERATION = WITH_STATUS - {"Node"} | {"RentedPool"}


@functools.cache
def definition(kind: Kind) -> Raw | None:
    """The CustomResourceDefinition of one of our kinds."""
    path = CRDS / f"{kind.plural}.yaml"
    if not path.exists():
        return None
    # in C: the other loader takes seconds for these files
    document: Raw = yaml.load(path.read_text(), yaml.CSafeLoader)
    return document


def stored(kind: Kind, body: Raw) -> Raw:
    """The object as it is kept: unknown fields of our kinds pruned, defaults filled in."""
    crd = definition(kind)
    if crd is None:
        return body
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    kept: Raw = with_defaults(schema, body)
    return kept


def check(kind: Kind, new: Raw, old: Raw | None = None) -> None:
    """Raise Refused with everything that is wrong with `new`, which is to replace `old`."""
    problems = [*_meta(kind, new), *_by_kind(kind, new, old)]
    if problems:
        name = new["metadata"].get("name")
        raise Refused(422, f'{kind.kind} "{name}" is invalid: ' + "; ".join(problems))


def _meta(kind: Kind, body: Raw) -> Iterator[str]:
    meta = body["metadata"]
    name = meta.get("name", "")
    if kind is kinds.PYTORCHJOBS:
        # The training-operator's webhook: a Service is named after the job.
        if len(name) > 63 or not _LABEL.fullmatch(name):
            yield f'metadata.name "{name}": a DNS-1035 label of at most 63 characters'
    elif len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        yield f'metadata.name "{name}": a lowercase RFC 1123 subdomain'
    if kind is kinds.JOBS and len(name) > 63:
        # Its pods carry the name as a label.
        yield f'metadata.name "{name}": must be no more than 63 characters'
    yield from _labels("metadata", meta)
    owners = meta.get("ownerReferences") or ()
    for owner in owners:
        if not all(owner.get(key) for key in ("apiVersion", "kind", "name", "uid")):
            yield f"metadata.ownerReferences: incomplete: {owner}"
    if sum(1 for owner in owners if owner.get("controller")) > 1:
        yield "metadata.ownerReferences: only one may be the controller"


def _labels(where: str, meta: Raw) -> Iterator[str]:
    for field in ("labels", "annotations"):
        for key, value in (meta.get(field) or {}).items():
            if not _KEY.fullmatch(key):
                yield f'{where}.{field}: "{key}" is no qualified name'
            if not isinstance(value, str):
                yield f"{where}.{field}.{key}: {value!r} is no string"
            elif field == "labels" and not _VALUE.fullmatch(value):
                yield f'{where}.labels.{key}: "{value}" is no label value'


def _by_kind(kind: Kind, new: Raw, old: Raw | None) -> Iterator[str]:
    if definition(kind) is not None:
        yield from _by_definition(kind, new, old)
    elif kind is kinds.PYTORCHJOBS:
        yield from _pytorchjob(new)
    elif kind is kinds.JOBS:
        yield from _job(new, old)
    elif kind is kinds.PODS:
        yield from _pod(new, old)
    elif kind is kinds.CONFIGMAPS:
        yield from _config_map(new, old)
    elif kind is kinds.EVENTS:
        about = new.get("involvedObject", {}).get("namespace") or "default"
        if about != new["metadata"]["namespace"]:
            yield f'involvedObject.namespace "{about}": does not match the event\'s namespace'


def _by_definition(kind: Kind, new: Raw, old: Raw | None) -> Iterator[str]:
    """By schema and rules. Where the spec stays, only the rules that look at both are asked."""
    if old is not None and new["spec"] == old["spec"]:
        yield from _verdict(kind, "status", json.dumps(new.get("status") or {}))
    else:
        yield from _verdict(kind, "", json.dumps(new), json.dumps(old) if old else None)


@functools.lru_cache(maxsize=10_000)
def _verdict(kind: Kind, part: str, new: str, old: str | None = None) -> tuple[str, ...]:
    """The verdict on a document, or on its status alone. The same ones come again and again."""
    crd = definition(kind)
    assert crd is not None, f"{kind.kind} has no CRD here"
    if part:
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        if part not in schema:
            return ()
        crd = {"spec": {"versions": [{"schema": {"openAPIV3Schema": schema[part]}}]}}
    return tuple(verdict(crd, json.loads(new), json.loads(old) if old else None))


def _pytorchjob(job: Raw) -> Iterator[str]:
    replicas: Raw = job["spec"].get("pytorchReplicaSpecs") or {}
    if not replicas:
        yield "spec.pytorchReplicaSpecs: required"
    for role, spec in replicas.items():
        where = f"spec.pytorchReplicaSpecs.{role}"
        if role not in ("Master", "Worker"):
            yield f"{where}: must be Master or Worker"
        count = spec.get("replicas", 1)
        if role == "Master" and count != 1:
            yield f"{where}.replicas: must be 1, not {count}"
        if count < 1:
            yield f"{where}.replicas: must be at least 1: it would make and delete pods for ever"
        template = spec.get("template") or {}
        containers = (template.get("spec") or {}).get("containers") or ()
        if not any(one.get("name") == "pytorch" for one in containers):
            yield f"{where}.template.spec.containers: there is no container named pytorch"
        yield from _template(where, template)


def _job(job: Raw, old: Raw | None) -> Iterator[str]:
    template = job["spec"].get("template") or {}
    yield from _template("spec.template", template)
    if template.get("spec", {}).get("restartPolicy") not in ("Never", "OnFailure"):
        yield "spec.template.spec.restartPolicy: must be Never or OnFailure"
    if old is not None and template != old["spec"].get("template"):
        yield "spec.template: field is immutable"


def _pod(pod: Raw, old: Raw | None) -> Iterator[str]:
    yield from _template("pod", {"metadata": pod["metadata"], "spec": pod["spec"]})
    if old is not None and pod["spec"] != old["spec"]:
        yield "spec: pod updates may not change it"


def _config_map(one: Raw, old: Raw | None) -> Iterator[str]:
    if not all(isinstance(value, str) for value in (one.get("data") or {}).values()):
        yield "data: values must be strings"
    if old is not None and old.get("immutable") and one.get("data") != old.get("data"):
        yield "data: field is immutable when `immutable` is set"


def _template(where: str, template: Raw) -> Iterator[str]:
    yield from _labels(f"{where}.metadata", template.get("metadata") or {})
    spec: Raw = template.get("spec") or {}
    volumes = [volume["name"] for volume in spec.get("volumes") or ()]
    if len(set(volumes)) != len(volumes):
        yield f"{where}.spec.volumes: two of one name: {volumes}"
    if not spec.get("containers"):
        yield f"{where}.spec.containers: required"
    for container in spec.get("containers") or ():
        yield from _container(
            f"{where}.spec.containers[{container.get('name')}]", container, volumes
        )


def _container(where: str, container: Raw, volumes: list[str]) -> Iterator[str]:
    if not container.get("image"):
        yield f"{where}.image: required"
    for variable in container.get("env") or ():
        if not _ENV.fullmatch(variable["name"]) or not isinstance(variable.get("value", ""), str):
            yield f"{where}.env: {variable}"
    paths: list[str] = []
    for mount in container.get("volumeMounts") or ():
        if mount["name"] not in volumes:
            yield f'{where}.volumeMounts: "{mount["name"]}" not found among the volumes'
        paths.append(mount["mountPath"])
    if len(set(paths)) != len(paths):
        yield f"{where}.volumeMounts: two of one path: {sorted(paths)}"
    resources: Any = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, amount in limits.items():
        if "/" in name and requests.get(name, amount) != amount:
            yield f"{where}.resources: request of {name} must equal its limit"
    for name in requests:
        if "/" in name and name not in limits:
            yield f"{where}.resources: {name} needs a limit too"
