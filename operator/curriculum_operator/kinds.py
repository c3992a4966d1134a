"""The kinds of objects that the operator reads or writes, and where each is served.

Values only: what is done with them is in cluster.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from curriculum_api.wire import GROUP, VERSION


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object: its name in documents and its place in the API."""

    group: str
    """Empty for the core group."""

    version: str
    plural: str
    kind: str
    namespaced: bool = True
    bulk: tuple[str, ...] = ()
    """Parts of its status that nobody here reads and that are most of it."""

    @property
    def api_version(self) -> str:
        """`apiVersion` of its documents."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        """Path of its API group."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


CURRICULA: Final = Kind(GROUP, VERSION, "trainingcurricula", "TrainingCurriculum")
CLASSES: Final = Kind(GROUP, VERSION, "acceleratorclasses", "AcceleratorClass", namespaced=False)
POOLS: Final = Kind(GROUP, VERSION, "rentedpools", "RentedPool", namespaced=False)
PYTORCHJOBS: Final = Kind("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
JOBS: Final = Kind("batch", "v1", "jobs", "Job")
PODS: Final = Kind("", "v1", "pods", "Pod")
NODES: Final = Kind("", "v1", "nodes", "Node", namespaced=False, bulk=("images",))
CONFIGMAPS: Final = Kind("", "v1", "configmaps", "ConfigMap")
CLAIMS: Final = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
EVENTS: Final = Kind("", "v1", "events", "Event")
LEASES: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")

ALL: Final = (
    CURRICULA,
    CLASSES,
    POOLS,
    PYTORCHJOBS,
    JOBS,
    PODS,
    NODES,
    CONFIGMAPS,
    CLAIMS,
    EVENTS,
    LEASES,
)

# What `curriculum doctor` looks at besides; the operator neither reads nor writes them.
DEPLOYMENTS: Final = Kind("apps", "v1", "deployments", "Deployment")
DAEMONSETS: Final = Kind("apps", "v1", "daemonsets", "DaemonSet")
ADMISSION_POLICIES: Final = Kind(
    "admissionregistration.k8s.io",
    "v1",
    "validatingadmissionpolicies",
    "ValidatingAdmissionPolicy",
    namespaced=False,
)

_BY_NAME: Final = {kind.kind: kind for kind in ALL}


def named(kind: str) -> Kind:
    """The kind that documents call `kind`, for example PyTorchJob."""
    return _BY_NAME[kind]


def of(body: Mapping[str, Any]) -> Kind:
    """The kind of a document."""
    kind = named(body["kind"])
    assert kind.api_version == body["apiVersion"], (kind.api_version, body["apiVersion"])
    return kind
