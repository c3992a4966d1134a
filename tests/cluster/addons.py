"""What a cluster has beyond Kubernetes itself: DNS's rights, and the Kubeflow training-operator.

training-operator comes from its module's own manifests (CRDs, RBAC, webhook, Deployment). Changed
are its image, the image of its init container (its default is in a registry), and how soon it is
asked whether it is ready. Must not start processes.
"""

import base64
import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from . import certificates, images, paths, versions
from .gobuild import binary, module_folder
from .shell import run

NAMESPACE: Final = "kubeflow"
DEPLOYMENT: Final = "training-operator"
_SECRET: Final = "training-operator-webhook-cert"
_OVERLAY: Final = "manifests/overlays/standalone"
_MODULE: Final = "github.com/kubeflow/training-operator"
_CHANGES: Final = f"{images.TRAINING_OPERATOR} {images.BASE} 1"

_DNS_RIGHTS: Final = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "curriculum-cluster:coredns"},
    "rules": [
        {
            "apiGroups": [""],
            "resources": ["namespaces", "services", "pods", "endpoints"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ],
}
_DNS_BINDING: Final = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "curriculum-cluster:coredns"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "curriculum-cluster:coredns",
    },
    "subjects": [
        {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "User",
            "name": "curriculum-cluster:coredns",
        }
    ],
}


def build(say: Callable[[str], None]) -> None:
    """Render training-operator's manifests into the cache, once per version."""
    if crds_file().exists() and _rest_file().exists():
        return
    say(f"rendering training-operator {versions.TRAINING_OPERATOR}'s manifests")
    overlay = module_folder("training-operator", _MODULE) / _OVERLAY
    rendered = run(binary("kubectl"), "kustomize", overlay).stdout
    # The C loader: the CRDs are 60,000 lines.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    objects = [each for each in yaml.load_all(rendered, Loader=loader) if each]
    crds = [each for each in objects if each["kind"] == "CustomResourceDefinition"]
    rest = [_changed(each) for each in objects if each not in crds and each["kind"] != "Secret"]
    _write(crds_file(), crds)
    _write(_rest_file(), rest)


def objects(*, now: datetime.datetime) -> str:
    """Everything to create, in an order that works, as one JSON document."""
    crds = json.loads(crds_file().read_text())["items"]
    rest = json.loads(_rest_file().read_text())["items"]
    first = [each for each in rest if each["kind"] == "Namespace"]
    last = [each for each in rest if each["kind"] != "Namespace"]
    return _list([_DNS_RIGHTS, _DNS_BINDING, *first, *crds, _webhook_certificate(now), *last])


def _webhook_certificate(now: datetime.datetime) -> dict[str, Any]:
    """What training-operator would make itself, and then wait a minute to see mounted."""
    host = f"{DEPLOYMENT}.{NAMESPACE}.svc"
    authority = certificates.authority(
        "training-operator-ca", now=now, organization="training-operator"
    )
    server = certificates.signed(authority, host, now=now, hosts=(host,))
    data = {
        "ca.crt": authority.certificate_pem,
        "ca.key": authority.key_pem,
        "tls.crt": server.certificate_pem,
        "tls.key": server.key_pem,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _SECRET, "namespace": NAMESPACE},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def _changed(thing: dict[str, Any]) -> dict[str, Any]:
    if thing["kind"] != "Deployment":
        return thing
    container = thing["spec"]["template"]["spec"]["containers"][0]
    container["image"] = images.TRAINING_OPERATOR
    container["args"] = [f"--pytorch-init-container-image={images.BASE}"]
    container["readinessProbe"] |= {"initialDelaySeconds": 0, "periodSeconds": 1}
    return thing


def crds_file() -> Path:
    """The training-operator's CRDs, as a JSON list."""
    return _file("crds")


def _rest_file() -> Path:
    return _file("rest")


def _file(part: str) -> Path:
    recipe = f"{binary('training-operator').name} {_CHANGES}"
    key = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    return paths.images() / f"training-operator-{key}-{part}.json"


def _write(path: Path, items: list[dict[str, Any]]) -> None:
    temporary = path.with_suffix(".writing")
    temporary.write_text(_list(items))
    temporary.replace(path)


def _list(items: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
